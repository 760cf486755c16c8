import json

import pytest
import timm
import torch

from endofm.errors import WeightsError
from endofm.models.loading.layouts import IMAGENET, KINETICS
from endofm.models.loading.published import load_published
from endofm.models.loading.sizes import LoadOptions, infer_config
from endofm.models.loading.weights import read_tensors
from endofm.models.timesformer import TimeSformer
from tests.models.published import (
    clip_of,
    hugging_face_of,
    polypdiag_of,
    prefixed,
    run_of,
    save,
    timesformer_of,
    video_model,
    with_head,
)
from tests.shared import shared_folder


@torch.no_grad()
def assert_same_output(ours, reference, clip=None):
    clip = clip_of() if clip is None else clip
    assert torch.allclose(ours.tokens(clip), reference.tokens(clip), atol=1e-5)
    assert torch.equal(ours(clip), reference(clip))


# Video transformers

LAYOUTS = {  # name of file -> (content of the model, words in the title, statistics)
    "endo_fm.pth": (lambda m: run_of(video_model(9), m), "Endo-FM's layout", IMAGENET),
    "kinetics400_vitb_ssl.pth": (lambda m: with_head(m.state_dict()), "SVT's layout", KINETICS),
    "TimeSformer_divST.pyth": (timesformer_of, "TimeSformer's layout", KINETICS),
    "polypdiag.pth": (polypdiag_of, "PolypDiag layout", KINETICS),
    "model.safetensors": (hugging_face_of, "Hugging Face's names", KINETICS),
    "bare.bin": (lambda m: hugging_face_of(m, ""), "Hugging Face's names", KINETICS),
    "plain.safetensors": (lambda m: m.state_dict(), "its plain names", IMAGENET),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_published_layout_gives_the_reference_output(tmp_path, name):
    wrap, title, statistics = LAYOUTS[name]
    reference = video_model()
    published = load_published(save(wrap(reference), tmp_path / name))
    model, report = published.model, published.report
    assert_same_output(model, reference)
    assert not model.training and model.config.num_heads == 1 and model.config.mlp_ratio == 2.0
    assert title in published.title
    assert (model.input_spec.mean, model.input_spec.std) == statistics
    assert model.input_spec.num_frames == 8 and model.input_spec.pixels == 48
    assert report.is_exact and set(report.loaded) == set(reference.state_dict())


def test_student_and_teacher_are_both_to_be_had(tmp_path):
    student, teacher = video_model(1), video_model(2)
    path = save(run_of(student, teacher), tmp_path / "run.pth")
    of_student = load_published(path, "student")
    assert_same_output(load_published(path).model, teacher)
    assert_same_output(of_student.model, student)
    assert of_student.network == "student"
    assert of_student.report.loaded["norm.bias"] == "student.module.backbone.norm.bias"
    assert of_student.report.left_out == {
        "student.module.head.mlp.0.weight": "projection head of the pretraining",
        "student.module.head.last_layer.weight_g": "projection head of the pretraining",
        "teacher": "the other network of the run; which='teacher' takes it",
        "optimizer": "the training's own state",
        "epoch": "the training's own state",
        "dino_loss": "tensors of something else",
    }


def test_a_classifier_is_left_out_and_said_so(tmp_path):
    report = load_published(save(polypdiag_of(video_model()), tmp_path / "p.pth")).report
    assert report.left_out["state_dict.module.linear.weight"] == "classifier"
    assert "scheduler" in report.left_out


def test_thirty_two_frames_are_read_from_the_weights(tmp_path):
    reference = video_model(num_frames=32)
    published = load_published(save(run_of(video_model(9), reference), tmp_path / "lv.pth"))
    assert published.model.input_spec.num_frames == 32
    assert "EndoFM-LV" in published.title
    assert_same_output(published.model, reference, clip_of(frames=32))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "joint_space_time"},
        {"attention": "space_only"},
        {"in_channels": 1},
        {"patch_pixels": 8, "image_pixels": 40, "num_frames": 3},
        {"mlp_ratio": 4.7},
        {"width": 128, "num_heads": 2, "depth": 1},
    ],
)
def test_the_architecture_is_read_from_the_shapes(tmp_path, settings):
    reference = video_model(**settings)
    content = {"model_state": prefixed(reference.state_dict(), "model.")}
    model = load_published(save(content, tmp_path / "model.pyth")).model
    for name in ("attention", "width", "num_heads", "patch_pixels", "num_frames", "in_channels"):
        assert getattr(model.config, name) == getattr(reference.config, name)
    pixels, channels = reference.config.image_pixels, reference.config.in_channels
    assert_same_output(model, reference, clip_of(pixels=pixels, channels=channels))


def test_a_network_made_without_biases_of_qkv_gets_zeros_and_says_so(tmp_path):
    reference = video_model()
    for block in reference.blocks:
        torch.nn.init.zeros_(block.attn.qkv.bias)
        torch.nn.init.zeros_(block.temporal_attn.qkv.bias)
    tensors = {n: t for n, t in reference.state_dict().items() if not n.endswith("qkv.bias")}
    published = load_published(save(tensors, tmp_path / "nobias.safetensors"))
    assert_same_output(published.model, reference)
    assert len(published.report.started) == 4
    assert "blocks.0.attn.qkv.bias" not in published.report.loaded


def test_heads_and_eps_can_be_given(tmp_path):
    reference = video_model(num_heads=4, layer_norm_eps=1e-3)
    path = save(reference.state_dict(), tmp_path / "model.safetensors")
    assert_same_output(load_published(path, "teacher", LoadOptions(4, 1e-3)).model, reference)
    spec = load_published(path, "teacher", LoadOptions(mean=(0.1,) * 3)).model.input_spec
    assert spec.mean == (0.1, 0.1, 0.1) and spec.std == IMAGENET[1]


def test_half_precision_files_give_single_precision(tmp_path):
    reference = video_model()
    tensors = {name: tensor.half() for name, tensor in reference.state_dict().items()}
    model = load_published(save(tensors, tmp_path / "half.safetensors")).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.allclose(model(clip_of()), reference(clip_of()), atol=1e-2)


# What is not whole


def spoil(name, change):
    tensors = run_of(video_model(1), video_model())
    change(tensors["teacher"], f"backbone.{name}")
    return tensors


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("blocks.1.norm1.bias", dict.pop, r"1 tensors are missing \(blocks\.1\.norm1\.bias\)"),
        ("cls_token", dict.pop, "lacks cls_token, from which its sizes are read"),
        ("surprise", lambda t, n: t.update({n: torch.ones(1)}), r"no place .*backbone\.surprise"),
        (
            "blocks.1.mlp.fc1.weight",
            lambda t, n: t.update({n: torch.ones(5, 64)}),
            r"fc1\.weight is \[5, 64\] instead of \[128, 64\]",
        ),
        ("cls_token", lambda t, n: t.update({n: t[n][0]}), r"cls_token of shape \[1, 64\]"),
        ("pos_embed", lambda t, n: t.update({n: t[n][:, :7]}), "pos_embed for 7 places"),
        ("time_embed", lambda t, n: t.update({n: t[n][:, :0]}), r"time_embed of shape \[1, 0"),
    ],
)
def test_what_is_missing_wrong_or_unexplained_is_said(tmp_path, name, change, says):
    path = save(spoil(name, change), tmp_path / "run.pth")
    with pytest.raises(WeightsError, match=says) as caught:
        load_published(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_width_that_heads_of_64_do_not_divide_asks_for_the_heads(tmp_path):
    path = save(video_model(width=48).state_dict(), tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"width 48, .* give num_heads \(--num-heads\)"):
        load_published(path)


def test_absurd_sizes_are_refused_before_anything_is_built():
    tensors = {
        "cls_token": torch.empty(1, 1, 65_536, device="meta"),
        "pos_embed": torch.empty(1, 10, 65_536, device="meta"),
        "patch_embed.proj.weight": torch.empty(65_536, 3, 16, 16, device="meta"),
        "blocks.0.mlp.fc1.weight": torch.empty(4, 65_536, device="meta"),
    }
    with pytest.raises(WeightsError, match="declares a width of 65536"):
        infer_config(tensors, "big.pth", LoadOptions())


def shapes_of(name):
    with torch.device("meta"):
        tensors = timm.create_model(name).state_dict()
    return {key: torch.empty(tensor.shape[:1]) for key, tensor in tensors.items()}


OTHERS = {
    "a ResNet": lambda: shapes_of("resnet18"),
    "a Swin transformer": lambda: shapes_of("swin_tiny_patch4_window7_224"),
    "a network of stages": lambda: shapes_of("convnext_atto"),
    "a VideoMAE": lambda: {"videomae.embeddings.patch_embeddings.projection.bias": torch.ones(1)},
    "a VideoMAE or BEiT": lambda: {"encoder.blocks.0.attn.q_bias": torch.ones(1)},
    "patches over 2 frames": lambda: {"patch_embed.proj.weight": torch.ones(4, 3, 2, 4, 4)},
    "a ViT under Hugging Face's names": lambda: {
        "vit.encoder.layer.0.attention.attention.query.weight": torch.ones(1)
    },
    "a CLIP": lambda: {"visual.proj": torch.ones(1)},
    "a network that is not known here": lambda: {"lstm.weight_ih_l0": torch.ones(1)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_networks_are_refused_by_name(tmp_path, what):
    path = save(OTHERS[what](), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=what) as caught:
        load_published(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(".")


# As published


@pytest.mark.golden
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_small_run_as_published_loads_exactly(which):
    path = shared_folder("golden", "published_layout_small.pth")
    published = load_published(path, which, LoadOptions(num_heads=4))
    tensors = read_tensors(path, which)
    own = published.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in own.items())
    assert published.model.config.width == 48 and published.network == which
    told = set(published.report.loaded.values()) | set(published.report.left_out)
    assert {"optimizer", "epoch", "args", "dino_loss"} <= told


@pytest.mark.golden
def test_the_published_names_and_shapes_at_full_size_load_exactly(tmp_path):
    file = shared_folder("golden", "published_backbone_keys.json")
    shapes = json.loads(file.read_text(encoding="utf-8"))["tensors"]
    shapes = {name: [256, 256] if "weight_v" in name else shape for name, shape in shapes.items()}
    tensors = {
        name: torch.full(shape, 0.001 * number, dtype=torch.float16)
        for number, (name, shape) in enumerate(shapes.items())
    }
    path = tmp_path / "endo_fm.pth"
    torch.save({"teacher": tensors, "student": {}, "epoch": 30}, path)
    published = load_published(path)
    model = published.model
    assert isinstance(model, TimeSformer)
    settings = (model.config.width, model.config.depth, model.config.num_heads)
    assert settings == (768, 12, 12) and model.config.image_pixels == 224
    assert model.config.attention == "divided_space_time" and model.config.mlp_ratio == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[f"backbone.{name}"].float())
    assert len(published.report.loaded) + len(published.report.left_out) == len(tensors) + 2
