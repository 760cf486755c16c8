"""ViPTT-Net: one channel in, a CNN of frames, an LSTM over them; as a backbone of the library."""

import pytest
import timm
import torch
from torch import Tensor, nn

import endofm
from endofm import hub
from endofm.cli import main
from endofm.errors import ConfigError
from endofm.hub.export import export
from endofm.models.registry import create_model, list_models
from endofm.models.vipttnet import ViPTTNet, load_cnn
from endofm.tasks.finetuning.trainable import (
    TuningConfig,
    prepare_encoder,
    set_training_options,
    train_mode,
)
from endofm.training.estimate import frames_step_bytes


def small(seed=0, **overrides) -> ViPTTNet:
    torch.manual_seed(seed)
    return create_model("vipttnet_mini", **{"recurrent_width": 6, "width": 10} | overrides)


def clip(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_paper_s_network_has_its_parts_and_sizes():
    """VGG-16's convolutions 14,714,688; the 1 x 1 convolution 6; the LSTM 4 (512 + 256 + 2) 256;
    the last layer 256 x 1024 + 1024.
    """
    with torch.device("meta"):
        model = create_model("vipttnet")
    assert sum(p.numel() for p in model.parameters()) == 14_714_688 + 6 + 788_480 + 263_168
    assert model(torch.zeros(1, 3, 5, 224, 224, device="meta")).shape == (1, 1024)
    assert model.patch_pixels == 32 and model.width == 1024
    assert (model.input_spec.num_frames, model.input_spec.pixels) == (70, 224)


@pytest.mark.parametrize("shape", [(2, 3, 4, 32, 32), (1, 3, 1, 64, 32), (2, 3, 3, 33, 47)])
def test_any_size_and_frame_count_runs_forward_and_backward(shape):
    model = small()
    tokens = model.tokens(clip(*shape))
    assert tokens.shape == (shape[0], 1 + shape[2], 10)
    tokens.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_gradient_reaches_every_parameter():
    model = small(width=40)
    (model(clip(2, 3, 3, 64, 64)) * clip(2, 40)).sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None]
    assert unreached == [] and model.from_grey.weight.grad.abs().min() > 0


def test_first_token_is_the_feature_and_the_last_frame_s():
    model = small().eval()
    given = clip(2, 3, 3, 32, 32)
    tokens = model.tokens(given)
    assert torch.equal(tokens[:, 0], model(given)) and torch.equal(tokens[:, 0], tokens[:, -1])
    assert torch.allclose(tokens[:, 1:3], model.tokens(given[:, :, :2])[:, 1:], atol=1e-6)


def test_the_order_of_frames_matters():
    model = small().eval()
    given = clip(1, 3, 4, 32, 32)
    assert not torch.allclose(model(given), model(given.flip(2)), atol=1e-4)


def test_clips_of_a_batch_do_not_see_each_other_in_evaluation():
    model = small().eval()
    given = clip(3, 3, 2, 32, 32)
    apart = torch.cat([model(one) for one in given.split(1)])
    assert torch.allclose(model(given), apart, atol=1e-5)


def test_one_channel_becomes_three_that_start_as_timm_normalises_grey():
    model = create_model("vipttnet_mini")
    known = timm.create_model("test_resnet").pretrained_cfg
    grey = clip(2, 1, 4, 4)
    mean, std = (torch.tensor(known[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose(model.from_grey(grey), (grey - mean) / std, atol=1e-5)
    # The statistics of the input leave pixels from 0 to 1, as the paper's window does.
    shown = model.input_spec.normalize(torch.full((1, 2, 32, 32, 3), 255, dtype=torch.uint8))
    assert shown.min() == shown.max() == 1
    assert all(parameter.requires_grad for parameter in model.from_grey.parameters())


def test_colour_is_seen_as_its_mean():
    model = small().eval()
    given = clip(1, 3, 2, 32, 32)
    assert torch.allclose(model(given), model(given.flip(1)), atol=1e-6)


def test_bf16_autocast_stays_close_to_float32():
    model = small().eval()
    given = clip(2, 3, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(given)
    exact = model(given)
    assert ((low.float() - exact).norm() / exact.norm()).item() < 0.03


# Ways to tune


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_training_the_last_block_only_freezes_the_frame_cnn_with_its_statistics():
    model = small()
    before = {name: value.clone() for name, value in model.blocks[0].state_dict().items()}
    prepare_encoder(model, TuningConfig(method="last_blocks", size=1))
    assert all(name.startswith("blocks.1.") for name in trained(model)) and trained(model)
    train_mode(model, model)
    model(clip(2, 3, 3, 32, 32)).sum().backward()
    after = model.blocks[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_thawed_with_frozen_norms_all_but_the_batch_norms_is_trained():
    model = small()
    norms = {
        f"{name}.{of}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for of in ("weight", "bias")
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare_encoder(model, TuningConfig(method="frozen_norm"))
    assert norms and trained(model) == {name for name, _ in model.named_parameters()} - norms
    train_mode(model, model)
    assert model.training and not any(
        m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(clip(2, 3, 3, 32, 32)).sum().backward()
    optimizer.step()
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert any("blocks.0" in name for name in changed)
    assert not any("running" in name or name in norms for name in changed)


@pytest.mark.parametrize("name", ["timesformer_mini", "vipttnet"])
def test_frozen_norms_are_refused_where_there_are_none(name):
    with torch.device("meta"):
        model = create_model(name)
    with pytest.raises(ConfigError, match=r"networks with batch norm, and this .* has none"):
        prepare_encoder(model, TuningConfig(method="frozen_norm"))


def test_what_makes_no_sense_is_refused():
    model = small()
    for tuning in (TuningConfig(method="lora"), TuningConfig(method="st_adapter")):
        with pytest.raises(ConfigError, match="plain video transformers"):
            prepare_encoder(small(), tuning)
    with pytest.raises(ConfigError, match="the network has 2 blocks"):
        prepare_encoder(model, TuningConfig(method="last_blocks", size=3))
    with pytest.raises(ConfigError, match="no branches to drop"):
        set_training_options(model, 0.1, False)
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        set_training_options(model, None, True)


# Bad input


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"cnn": "vgg61"}, "timm has no model 'vgg61'; did you mean vgg"),
        ({"cnn": "vit_tiny_patch16_224"}, "gives no feature maps"),
        ({"recurrent_width": 0}, "recurrent_width is 0"),
        ({"width": 0}, "width is 0"),
        ({"depth": 3}, "A ViPTT-Net has no setting 'depth'"),
    ],
)
def test_what_cannot_be_built_is_told_with_a_way_out(setting, says):
    with pytest.raises(ConfigError, match=says):
        create_model("vipttnet", **setting)


@pytest.mark.parametrize("shape", [(1, 1, 2, 64, 64), (3, 2, 64, 64), (1, 3, 0, 64, 64)])
def test_what_is_not_a_clip_is_refused_with_its_shape(shape):
    with pytest.raises(ConfigError, match=r"A clip is \[B, 3, T, H, W\]"):
        small()(torch.zeros(shape))


def test_frames_too_small_for_the_cnn_are_told_the_least_size():
    with pytest.raises(ConfigError, match=r"31 x 64 pixels are too small .* resize them to 32"):
        small()(clip(1, 3, 2, 31, 64))


# In the library


def test_the_registry_has_the_network():
    assert {"vipttnet", "vipttnet_mini"} <= set(list_models())


def test_a_model_folder_gives_the_network_back(tmp_path, capsys):
    model = small()
    model(clip(2, 3, 3, 32, 32) + 3)  # moves the batch norms' running statistics
    hub.save(tmp_path / "model", model, model.input_spec, {"source": "a test"})
    loaded = endofm.load(tmp_path / "model")
    assert isinstance(loaded, ViPTTNet) and loaded.config == model.config
    given = clip(1, 3, 2, 32, 32)
    assert torch.equal(loaded(given), model.eval()(given))
    main(["check", str(tmp_path / "model")])
    assert "ViPTT-Net, test_resnet and an LSTM of 6" in capsys.readouterr().out
    assert "tags: [video, endoscopy, vipttnet]" in (tmp_path / "model/README.md").read_text()


def test_an_exported_file_gives_the_model_s_outputs(tmp_path):
    done = export(small(), tmp_path / "model.pt2", num_frames=2, pixels=32)
    assert done.frames == (2, 32, 32) and done.difference < 1e-4


def test_the_memory_of_a_step_is_counted_from_the_layers():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    # 4 x 8 x 8, the same again, 4 x 4 x 4: 576 numbers a frame.
    assert frames_step_bytes(plain, (5, 8), 2, False) == 576 * 4 * 5 * 2
    assert frames_step_bytes(plain, (5, 8), 2, True) == 576 * 2 * 5 * 2


def test_the_frame_cnn_starts_from_timms_weights_and_their_statistics(monkeypatch):
    """`load_cnn` asks timm, which has no network here: a CNN of its own kind answers."""
    model, build = small(), timm.create_model

    def pretrained_one(name, pretrained=False):
        assert pretrained and name == "test_resnet.some_tag"
        torch.manual_seed(7)
        given = build("test_resnet")
        given.pretrained_cfg = given.pretrained_cfg | {"mean": (0.1,) * 3, "std": (0.2,) * 3}
        return given

    monkeypatch.setattr(timm, "create_model", pretrained_one)
    before = model.blocks[1].project.weight.clone()
    load_cnn(model, "test_resnet.some_tag")
    torch.manual_seed(7)
    theirs = next(build("test_resnet").parameters())
    assert torch.equal(next(model.blocks[0].parameters()), theirs)
    assert torch.allclose(model.from_grey.weight, torch.tensor(5.0))
    assert torch.allclose(model.from_grey.bias, torch.tensor(-0.5))
    assert torch.equal(model.blocks[1].project.weight, before)
