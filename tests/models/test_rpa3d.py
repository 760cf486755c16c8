"""RPA 3D CNN: its parts by hand-worked numbers, its shapes and parameters stage by stage."""

import pytest
import torch
from torch import Tensor, nn

import endofm
from endofm import hub
from endofm.cli import main
from endofm.errors import ConfigError, WeightsError
from endofm.hub.export import export
from endofm.models.build import ModelConfig, build_backbone
from endofm.models.input import InputSpec
from endofm.models.registry import create_model, list_models
from endofm.models.rpa3d import (
    RPA3D,
    ChannelNorm,
    ParallelAttention,
    RPA3DConfig,
    RPABlock,
    halve,
)
from endofm.tasks.embedding.videos import fingerprint

NAMES = ["rpa3d", "rpa3d_full3d", "rpa3d_no_attention"]
every_kind = pytest.mark.parametrize("name", NAMES)


def small(name="rpa3d", seed=0, **overrides) -> RPA3D:
    """Two stages of 8 and 16 filters: the stride is 4."""
    torch.manual_seed(seed)
    return create_model(name, **{"widths": (8, 16), "reduction": 2} | overrides)


def clip(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def set_attention(attention: ParallelAttention, branch: str, squeeze, excite, space) -> None:
    """Weights of two channels narrowed to one; a bias of 0 everywhere."""
    channel, spatial = (getattr(attention, f"{part}_of_{branch}") for part in ("channel", "space"))
    for conv, weights in ((channel[1], squeeze), (channel[3], excite), (spatial[0], space)):
        conv.weight.data = torch.tensor(weights).view_as(conv.weight)
        conv.bias.data.zero_()


def only_center(conv: nn.Conv3d) -> None:
    """A convolution that changes nothing."""
    conv.weight.data.zero_()
    for channel in range(conv.out_channels):
        conv.weight.data[channel, channel, *(side // 2 for side in conv.kernel_size)] = 1.0


# Parts, by hand


def test_parallel_attention_joins_channels_and_places_by_maximum_and_by_sum():
    """Two channels at two places: (1, 3) and (2, 0), whose means are 2 and 1.

    Sigmoids: s(ln 3) = 3/4, s(-ln 3) = 1/4, s(0) = 1/2, s(2 ln 3) = 9/10.
    """
    ln3 = torch.log(torch.tensor(3.0)).item()
    attention = ParallelAttention(2, reduction=2)
    # Of the maximum: 2 - 1 = 1 narrowed; channels get s(ln 3), s(-ln 3); places s(ln 3 (x1 - x2)):
    # s(-ln 3) = 1/4 at the first (1, 2), s(3 ln 3) = 27/28 at the second (3, 0).
    set_attention(attention, "larger", [1.0, -1.0], [ln3, -ln3], [ln3, -ln3])
    # Of the sum: -2 + 1 < 0 is cut to 0 by ReLU, so both channels get 1/2; places s(ln 3 x2):
    # 9/10 at the first, 1/2 at the second.
    set_attention(attention, "sum", [-1.0, 1.0], [5.0, 5.0], [0.0, ln3])
    maps = torch.tensor([[1.0, 3.0], [2.0, 0.0]]).view(1, 2, 1, 1, 2)
    larger = torch.tensor([[3 / 4 * 1, 27 / 28 * 3], [1 / 4 * 2, 0]])
    summed = torch.tensor([[(1 / 2 + 9 / 10) * 1, (1 / 2 + 1 / 2) * 3], [(1 / 2 + 9 / 10) * 2, 0]])
    expected = (larger + summed).view_as(maps)
    assert torch.allclose(attention.join(maps), expected, atol=1e-6)
    only_center(attention.conv)
    attention.norm.running_mean.fill_(2.0)
    normed = (expected - 2).clamp(min=0) / (1 + attention.norm.eps) ** 0.5
    assert torch.allclose(attention.eval()(maps), normed, atol=1e-5)


def test_a_block_normalises_twice_and_adds_its_input():
    """Convolutions that change nothing leave two LayerNorms with a ReLU between.

    Channels (3, 1) at a place become (1, -1), (1, 0), (1, -1), and the input is added: (4, 0).
    """
    for name in ("rpa3d_no_attention", "rpa3d_full3d"):
        config = create_model(name, widths=(2,), has_attention=False, reduction=1).config
        block = RPABlock(config, 2, 2)
        for conv in (module for module in block.modules() if isinstance(module, nn.Conv3d)):
            only_center(conv)
        maps = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 3, 3).contiguous()
        expected = torch.tensor([4.0, 0.0]).view(1, 2, 1, 1, 1).expand_as(maps)
        assert torch.allclose(block(maps), expected, atol=1e-4)


def test_a_shortcut_is_projected_and_normalised_where_channels_change():
    config = RPA3DConfig(widths=(1, 2), has_attention=False)
    block = RPABlock(config, 1, 2)
    block.shortcut[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    nn.init.zeros_(block.norm2.weight)
    out = block(torch.full((1, 1, 1, 2, 2), 5.0))
    assert torch.allclose(out[0, :, 0, 0, 0], torch.tensor([1.0, -1.0]), atol=1e-4)


def test_space_is_seen_before_time_and_by_convolutions_of_their_own():
    config = RPA3DConfig()
    spatial, temporal = RPA3D(config).stem[0]
    assert (spatial.kernel_size, temporal.kernel_size) == ((1, 7, 7), (3, 1, 1))
    assert (spatial.weight.shape[:2], temporal.weight.shape[:2]) == ((16, 3), (16, 16))
    assert RPA3D(RPA3DConfig(convolution="3d")).stem[0].kernel_size == (3, 7, 7)
    # As many weights as at once: 3 x 9 x 16 x 32 = 13,824 = M (9 x 16 + 3 x 32), so M = 57.6.
    matched = RPABlock(RPA3DConfig(middle="matched"), 16, 32).conv1
    assert matched[0].out_channels == 57
    assert 0.98 < parameters(matched) / 13_824 <= 1


def test_layer_norm_is_over_the_channels_of_each_place():
    maps = clip(2, 4, 3, 2, 2)
    normed = ChannelNorm(4)(maps)
    assert torch.allclose(normed.mean(dim=1), torch.zeros(2, 3, 2, 2), atol=1e-6)
    assert torch.allclose(normed.var(dim=1, correction=0), torch.ones(2, 3, 2, 2), atol=1e-3)


def test_halving_averages_two_by_two_and_leaves_time_alone():
    maps = torch.arange(16.0).view(1, 1, 1, 4, 4).repeat(1, 1, 3, 1, 1)
    maps[:, :, 1] += 100
    plane = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    expected = torch.stack([plane, plane + 100, plane]).view(1, 1, 3, 2, 2)
    assert torch.allclose(halve(maps), expected)
    assert halve(clip(1, 2, 5, 7, 9)).shape == (1, 2, 5, 3, 4)


# The whole


def test_stages_have_the_papers_shapes_and_the_parameters_that_follow_from_its_text():
    """Worked by hand; the paper's size is 10 frames of 224 x 224.

    Stem: 49 x 3 x 16 + 3 x 16 x 16, and 32 of the batch norm. A stage from c to f filters:
    (2+1)D convolutions 9 c f + 3 f f and 12 f f, LayerNorms 4 f, a projecting shortcut c f + 2 f,
    attention 2 (2 f f / 8 + f / 8 + f + f + 1), its convolution 27 f f, its batch norm 2 f.
    """
    with torch.device("meta"):  # shapes without numbers
        model = create_model("rpa3d")
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))
    model.stem.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))
    assert model(torch.zeros(1, 3, 10, 224, 224, device="meta")).shape == (1, 128)
    assert shapes == [
        (1, 16, 10, 224, 224),
        (1, 16, 10, 112, 112),
        (1, 32, 10, 56, 56),
        (1, 64, 10, 28, 28),
        (1, 128, 10, 14, 14),
    ]
    assert [parameters(part) for part in (model.stem, *model.blocks)] == [
        3_152, 13_350, 49_034, 195_346, 779_810,
    ]  # fmt: skip
    assert parameters(model) == 1_040_692
    # Both at once: 27 c f and 27 f f in the place of 9 c f + 3 f f and 12 f f, 147 c f in the stem.
    stages = ((16, 16), (16, 32), (32, 64), (64, 128))
    more = 147 * 48 - 3_120 + sum(18 * c * f + (27 - 15) * f * f for c, f in stages)
    assert parameters(create_model("rpa3d_full3d")) == 1_040_692 + more
    less = sum(27 * f * f + 2 * f + 2 * (f * f // 4 + f // 8 + 2 * f + 1) for _, f in stages)
    assert parameters(create_model("rpa3d_no_attention")) == 1_040_692 - less


@pytest.mark.parametrize("shape", [(2, 3, 4, 16, 16), (1, 3, 1, 8, 12), (2, 3, 3, 13, 22)])
@every_kind
def test_any_size_and_frame_count_runs_forward_and_backward(name, shape):
    model = small(name)
    batch, _, frames, height, width = shape
    places = (height // 2 // 2) * (width // 2 // 2)
    tokens = model.tokens(clip(*shape))
    assert tokens.shape == (batch, 1 + frames * places, 16)
    tokens.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@every_kind
def test_gradient_reaches_every_parameter(name):
    model = small(name)
    (model(clip(2, 3, 3, 16, 16)) * clip(2, 16)).sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_kind
def test_first_token_is_the_feature_and_the_mean_of_the_others(name):
    model = small(name).eval()
    given = clip(2, 3, 3, 12, 16)
    tokens = model.tokens(given)
    assert torch.equal(tokens[:, 0], model(given)) and model.width == 16
    assert torch.allclose(tokens[:, 1:].mean(dim=1), tokens[:, 0], atol=1e-6)
    # As (h w t), a TimeSformer's order: the place of row 2, column 1 in frame 0.
    assert torch.equal(tokens[:, 1 + (2 * 4 + 1) * 3], model.maps(given)[:, :, 0, 2, 1])


@every_kind
def test_clips_of_a_batch_do_not_see_each_other_in_evaluation(name):
    model = small(name).eval()
    given = clip(3, 3, 2, 8, 12)
    apart = torch.cat([model.tokens(one) for one in given.split(1)])
    assert torch.allclose(model.tokens(given), apart, atol=1e-5)


def test_bf16_autocast_stays_close_to_float32():
    model = small()
    given = clip(2, 3, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(given).sum().backward()
        low = model.eval().tokens(given)
    exact = model.tokens(given)
    assert ((low.float() - exact).norm() / exact.norm()).item() < 0.03


# Bad input


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"widths": ()}, "at least one stage"),
        ({"widths": (16, 0)}, r"widths is \[16, 0\]"),
        ({"widths": (4, 8)}, "reduction 8 leaves nothing of 4 channels"),
        ({"reduction": 0}, "reduction is 0"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"convolution": "2d"}, "'2d' is unknown; choose one of 2plus1d, 3d"),
        ({"middle": "most"}, "choose one of filters, matched"),
        ({"reductoin": 4}, "An RPA 3D CNN has no setting 'reductoin'; did you mean reduction"),
        ({"depth": 2}, "no setting 'depth'"),
    ],
)
def test_what_cannot_be_built_is_told_with_a_way_out(setting, says):
    with pytest.raises(ConfigError, match=says):
        create_model("rpa3d", **setting)


def test_frames_too_small_to_be_halved_are_told_the_least_size():
    with pytest.raises(ConfigError, match=r"31 x 64 pixels .* halved 4 times; resize them to 32"):
        create_model("rpa3d")(clip(1, 3, 2, 31, 64))


@pytest.mark.parametrize("shape", [(1, 4, 2, 64, 64), (3, 2, 64, 64), (1, 3, 0, 64, 64)])
def test_what_is_not_a_clip_is_refused_with_its_shape(shape):
    with pytest.raises(ConfigError, match=r"A clip is \[B, 3, T, H, W\]"):
        create_model("rpa3d")(torch.zeros(shape))


# In the library


def test_the_registry_has_the_network_and_its_ablations():
    assert [name for name in list_models() if name.startswith("rpa3d")] == NAMES
    model = create_model("rpa3d")
    assert (model.input_spec.num_frames, model.input_spec.pixels) == (10, 224)
    assert create_model("rpa3d_full3d").config.convolution == "3d"
    assert not create_model("rpa3d_no_attention").config.has_attention


def test_pretraining_wants_a_video_transformer():
    with pytest.raises(ConfigError, match="rpa3d is no video transformer; pretrain one of those"):
        build_backbone(ModelConfig(name="rpa3d"), image_pixels=32, num_frames=2)


@every_kind
def test_a_model_folder_gives_the_network_back_with_its_batch_statistics(name, tmp_path, capsys):
    model = small(name)
    model(clip(2, 3, 3, 16, 16) + 3)  # moves the batch norms' running statistics
    spec = InputSpec((0.4, 0.3, 0.2), (0.2, 0.2, 0.1), num_frames=4, pixels=16)
    hub.save(tmp_path / "model", model, spec, {"source": "a test"})
    loaded = endofm.load(tmp_path / "model")
    assert isinstance(loaded, RPA3D) and loaded.config == model.config
    assert loaded.input_spec == spec and not loaded.training
    assert torch.equal(loaded(clip(1, 3, 2, 16, 16)), model(clip(1, 3, 2, 16, 16)))
    model.input_spec = spec
    assert fingerprint(loaded) == fingerprint(model)
    main(["check", str(tmp_path / "model")])
    assert "RPA 3D CNN" in capsys.readouterr().out
    assert "tags: [video, endoscopy, rpa3d]" in (tmp_path / "model/README.md").read_text()


def test_changed_statistics_are_noticed_by_the_reference(tmp_path):
    model = small()
    hub.save(tmp_path / "model", model, model.input_spec, {"source": "a test"})
    model.stem[1].running_mean += 1
    hub.save(tmp_path / "other", model, model.input_spec, {"source": "a test"})
    (tmp_path / "other/model.safetensors").replace(tmp_path / "model/model.safetensors")
    with pytest.raises(WeightsError, match="reference output"):
        endofm.load(tmp_path / "model")


@pytest.mark.slow
def test_an_exported_file_gives_the_models_outputs(tmp_path):
    done = export(small(), tmp_path / "model.pt2", num_frames=2, pixels=16)
    assert done.frames == (2, 16, 16) and done.difference < 1e-4
