"""STFM: its streams and stems, on timm's tiny CNNs; in the library as any backbone."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import endofm
from endofm import hub
from endofm.cli import main
from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.errors import ConfigError, WeightsError
from endofm.hub.export import export
from endofm.models.frame_cnn import frame_cnn
from endofm.models.registry import create_model, list_models
from endofm.models.stfm import STFM, HalvingBlock, load_stem
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.finetuned import build_task

STEMS = ["test_resnet", "test_convnext", "test_efficientnet"]
every_stem = pytest.mark.parametrize("stem", STEMS)


def small(stem="test_resnet", seed=0, **overrides) -> STFM:
    """Streams of 8 channels; the stride is 32."""
    torch.manual_seed(seed)
    settings = {"width": 8, "temporal_widths": (4, 6), "lstm_width": 8} | overrides
    return create_model(f"stfm_{stem}", **settings)


def clip(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 4, 64, 64), (3, 3, 1, 32, 41), (2, 3, 3, 33, 50)])
@every_stem
def test_any_size_and_frame_count_runs_forward_and_backward(stem, shape):
    model = small(stem)
    tokens = model.tokens(clip(*shape))
    assert tokens.shape == (shape[0], 3, 8)
    tokens.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@every_stem
def test_gradient_reaches_every_parameter(stem):
    model = small(stem)
    for parameter in model.parameters():  # timm's ResNets start their inner branches at zero
        if not parameter.any():
            nn.init.normal_(parameter)
    (model.tokens(clip(4, 3, 3, 64, 64)) * clip(4, 3, 8)).sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_stem
def test_first_token_is_the_feature_and_clips_do_not_see_each_other(stem):
    model = small(stem).eval()
    given = clip(3, 3, 4, 40, 48)
    tokens = model.tokens(given)
    assert torch.equal(tokens[:, 0], model(given))
    apart = torch.cat([model.tokens(one) for one in given.split(1)])
    assert torch.allclose(tokens, apart, atol=1e-5)


@every_stem
def test_stem_and_stages_give_the_whole_cnns_features(stem):
    torch.manual_seed(0)
    cnn = frame_cnn(stem)
    torch.manual_seed(0)
    whole = timm.create_model(stem).eval()
    pictures = clip(2, 3, 64, 64)
    maps = cnn.stem.eval()(pictures)
    expected = whole.forward_intermediates(pictures, intermediates_only=True)
    sizes = [one.shape[-1] for one in expected]
    first = sizes.index(16)  # a quarter of the side: the end of the first stage
    assert torch.allclose(maps, expected[first], atol=1e-5)
    assert torch.allclose(cnn.stages.eval()(maps), expected[-1], atol=1e-4)
    assert (cnn.stem_channels, cnn.channels) == (maps.shape[1], expected[-1].shape[1])
    assert cnn.stride == 64 // expected[-1].shape[-1]


def test_the_spatial_stream_sees_the_middle_frame_and_the_temporal_one_all_in_order():
    model = small().eval()
    given = clip(1, 3, 5, 64, 64)
    _, spatial, temporal = model.tokens(given)[0]
    for frame in range(5):
        other = given.clone()
        other[:, :, frame] = clip(1, 3, 64, 64, seed=9)
        _, changed_space, changed_time = model.tokens(other)[0]
        assert torch.equal(spatial, changed_space) == (frame != 2)
        assert not torch.allclose(temporal, changed_time, atol=1e-7)
    turned = model.tokens(given.flip(2))[0]
    assert torch.allclose(turned[1], spatial, atol=1e-5)  # of five frames the third stays
    assert not torch.allclose(turned[2], temporal, atol=1e-5)
    assert torch.allclose(model.tokens(given[:, :, 1:3])[0, 1], spatial, atol=1e-5)  # 2 // 2 = 1


def test_dropouts_stand_where_the_paper_has_them():
    model = create_model("stfm_test_resnet")
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert {n: p for n, p in rates.items() if n.startswith("blocks")} == {
        "blocks.0.dropout": 0.3,
        "blocks.1.dropout": 0.2,
        "blocks.1.last_dropout": 0.3,
        "blocks.2.0": 0.5,
        "blocks.2.3": 0.3,
    }
    lstm = model.blocks[1].lstm
    assert (lstm.hidden_size, lstm.num_layers, lstm.dropout, lstm.input_size) == (512, 2, 0.3, 64)


def test_the_papers_size_has_the_parameters_that_follow_from_its_text():
    """Worked by hand for ResNet-18, whose stem gives 64 channels and whose last stage 512.

    Halving from c to f: 9 c f + 9 f f + c f, and 6 f of three batch norms. LSTM layers from i to
    512: 4 (512 i + 512 512 + 2 512).
    """
    with torch.device("meta"):  # shapes without numbers
        model = create_model("stfm_resnet18")
        sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_modules()}
        assert model(torch.zeros(2, 3, 5, 224, 224)).shape == (2, 128)
    halving = sum(10 * c * f + 9 * f * f + 6 * f for c, f in ((32, 48), (48, 64)))
    lstm = 4 * sum(512 * i + 512 * 512 + 2 * 512 for i in (64, 512))
    assert sizes["blocks.1"] == 9 * 64 * 32 + 64 + halving + lstm + 512 * 128 + 128
    assert sizes["blocks.0"] - sizes["blocks.0.stages"] == 512 * 128 + 128
    assert sizes["blocks.2"] == 256 * 128 + 128
    resnet = sum(p.numel() for p in timm.create_model("resnet18", num_classes=0).parameters())
    assert sizes["stem"] + sizes["blocks.0.stages"] == resnet


def test_a_halving_block_adds_a_projected_shortcut_and_is_never_negative():
    block = HalvingBlock(2, 3).eval()
    nn.init.zeros_(block.conv2.weight)
    project, norm = block.shortcut
    for height, width in ((6, 8), (5, 7)):
        maps = clip(1, 2, height, width)
        halved = norm(F.conv2d(maps, project.weight, stride=2))
        assert torch.allclose(block(maps), halved.clamp(min=0))
        assert block(maps).shape == (1, 3, 3, 4)


def test_bf16_autocast_stays_close_to_float32():
    model, given = small(), clip(2, 3, 4, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        model.train().tokens(given).sum().backward()
        low = model.eval().tokens(given)
    exact = model.tokens(given)
    assert ((low.float() - exact).norm() / exact.norm()).item() < 0.05


# Weights


@pytest.fixture
def timm_has(monkeypatch):
    """Stands for timm's weights, which are not downloaded: a CNN of another seed."""
    real = timm.create_model

    def create(name, pretrained=False, **settings):
        if pretrained and name == "absent":
            raise OSError("no network")
        if pretrained:
            torch.manual_seed(77)
        return real(name.split(".")[0], **settings)

    monkeypatch.setattr(timm, "create_model", create)


def test_a_stem_starts_from_timms_weights_and_their_statistics(timm_has):
    model = small()
    temporal = {n: t.clone() for n, t in model.blocks[1].state_dict().items()}
    load_stem(model, "test_resnet.r160_in1k")
    torch.manual_seed(77)
    cnn = frame_cnn("test_resnet")
    for ours, theirs in ((model.stem, cnn.stem), (model.blocks[0].stages, cnn.stages)):
        assert all(torch.equal(ours.state_dict()[n], t) for n, t in theirs.state_dict().items())
    assert all(torch.equal(model.blocks[1].state_dict()[n], t) for n, t in temporal.items())
    assert model.input_spec.mean == cnn.mean and model.input_spec.num_frames == 5


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("test_convnext.r160_in1k", "another CNN than the model's"),
        ("absent", r"can't be had from timm \(.*no network"),
        ("test_vit.r160_in1k", "gives no feature maps"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(timm_has, source, says):
    model = small()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(WeightsError, match=says):
        load_stem(model, source)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())


# Bad input


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("stfm_test_vit", {}, "test_vit gives no feature maps .* choose one such as resnet18"),
        ("stfm_swin_tiny_patch4_window7_224", {}, "gives no feature maps"),
        ("stfm_resnet19", {}, "timm has no model 'resnet19'; did you mean resnet18"),
        ("stfm_test_resnet", {"width": 0}, "width is 0"),
        ("stfm_test_resnet", {"temporal_widths": ()}, "at least one of 1 or more"),
        (
            "stfm_test_resnet",
            {"lstm_widht": 4},
            "An STFM has no setting .* did you mean lstm_width",
        ),
        ("stfm_test_resnet", {"depth": 2}, "no setting 'depth'"),
    ],
)
def test_what_cannot_be_built_is_told_with_a_way_out(name, setting, says):
    with pytest.raises(ConfigError, match=says):
        create_model(name, **setting)


def test_frames_too_small_and_what_is_no_clip_are_told():
    model = small()
    with pytest.raises(ConfigError, match=r"31 x 64 pixels .* the stride of test_resnet is 32"):
        model(clip(1, 3, 2, 31, 64))
    for shape in [(1, 4, 2, 64, 64), (3, 2, 64, 64), (1, 3, 0, 64, 64)]:
        with pytest.raises(ConfigError, match=r"A clip is \[B, 3, T, H, W\]"):
            model(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_a_network_without_places_finds_none(kind):
    clip_spec = ClipSpec(kind, ("background", "polyp"), LabelledConfig(), 2, 64)
    with pytest.raises(ConfigError, match=f"STFM can't be trained for {kind}"):
        build_task(small(), clip_spec, TaskConfig(kind=kind))


# In the library


def test_the_registry_has_resnets_and_takes_any_cnn_of_timm():
    names = [name for name in list_models() if name.startswith("stfm_")]
    assert names == ["stfm_resnet18", "stfm_resnet50"]
    with torch.device("meta"):
        model = create_model("stfm_mobilenetv3_large_100")
    assert model.config.stem == "mobilenetv3_large_100" and model.config.num_frames == 5


def test_a_model_folder_gives_the_network_back(tmp_path, capsys):
    model = small()
    model(clip(2, 3, 3, 64, 64) + 3)  # moves the batch norms' running statistics
    hub.save(tmp_path / "model", model, model.input_spec, {"source": "a test"})
    loaded = endofm.load(tmp_path / "model")
    assert isinstance(loaded, STFM) and loaded.config == model.config and not loaded.training
    assert loaded.input_spec == model.input_spec
    assert torch.equal(loaded(clip(1, 3, 2, 64, 64)), model(clip(1, 3, 2, 64, 64)))
    main(["check", str(tmp_path / "model")])
    assert "STFM on test_resnet" in capsys.readouterr().out
    assert "tags: [video, endoscopy, stfm]" in (tmp_path / "model/README.md").read_text()


@pytest.mark.slow
def test_an_exported_file_gives_the_models_outputs(tmp_path):
    done = export(small(), tmp_path / "model.pt2", num_frames=2, pixels=64)
    assert done.frames == (2, 64, 64) and done.difference < 1e-4
