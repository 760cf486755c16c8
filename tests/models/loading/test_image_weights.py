from functools import partial
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.layers.mlp import SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from endofm.errors import WeightsError
from endofm.models.loading.image_weights import load_image_weights
from endofm.models.registry import create_model
from endofm.models.timesformer import TimeSformer

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 48, "num_classes": 5}


def image_model(kind=VisionTransformer, **settings) -> nn.Module:
    """A small image ViT in which every parameter matters."""
    torch.manual_seed(0)
    model = kind(**SIZES | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def video_model(attention="divided_space_time", **overrides) -> TimeSformer:
    torch.manual_seed(1)
    settings = {"width": 32, "depth": 2, "num_heads": 4, "image_pixels": 48}
    model = create_model("timesformer_tiny", attention=attention, **settings | overrides).eval()
    if model.time_embed is not None:
        nn.init.normal_(model.time_embed)
    return model


def still_clip(frames, pixels=48):
    image = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(2))
    return image, image[:, :, None].expand(-1, -1, frames, -1, -1)


VARIANTS = {
    "plain": {},
    "layer scale": {"init_values": 1e-1},
    "no position of the class": {"no_embed_class": True},
    "both": {"init_values": 1e-1, "no_embed_class": True},
    "without classifier": {"num_classes": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("attention", "frames"),
    [
        ("divided_space_time", 8),
        ("divided_space_time", 3),
        ("space_only", 4),
        ("joint_space_time", 1),
    ],
)
def test_a_still_clip_gives_what_the_image_model_gives(variant, attention, frames):
    image_vit, model = image_model(**VARIANTS[variant]), video_model(attention)
    load_image_weights(model, image_vit)
    image, clip = still_clip(frames)
    with torch.no_grad():
        expected = image_vit.forward_features(image)
        assert torch.allclose(model(clip), expected[:, 0], atol=1e-4)
        patches = model.tokens(clip)[:, 1:].view(2, 9, frames, 32)
    assert torch.allclose(patches, expected[:, 1:, None].expand_as(patches), atol=1e-4)


def test_joint_attention_over_several_still_frames_is_not_the_image_model():
    image_vit, model = image_model(), video_model("joint_space_time")
    load_image_weights(model, image_vit)
    image, clip = still_clip(4)
    difference = model(clip) - image_vit.forward_features(image)[:, 0]
    assert difference.abs().max() > 1e-2  # as the module says; this keeps the sentence true


def test_the_temporal_parts_of_every_block_start_as_the_identity():
    model = video_model()
    load_image_weights(model, image_model())
    assert not model.time_embed.any()
    for block in model.blocks:
        assert not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any()
        assert block.temporal_attn.qkv.weight.any()  # or nothing could be learnt


def test_another_grid_resizes_the_positions_as_timm_does():
    image_vit, model = image_model(), video_model(image_pixels=80)
    load_image_weights(model, image_vit)
    assert torch.allclose(
        model.pos_embed, resample_abs_pos_embed(image_vit.pos_embed, (5, 5), (3, 3)), atol=1e-6
    )


def test_a_grid_that_is_not_square_is_known_from_the_module():
    image_vit, model = image_model(img_size=(32, 64)), video_model()
    load_image_weights(model, image_vit)
    expected = resample_abs_pos_embed(image_vit.pos_embed, (3, 3), (2, 4))
    assert torch.allclose(model.pos_embed, expected, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_the_same_as_the_module(tmp_path, variant, suffix):
    image_vit, from_module, from_file = (
        image_model(**VARIANTS[variant]),
        video_model(),
        video_model(),
    )
    path = tmp_path / f"vit{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(image_vit.state_dict(), path)
    report = load_image_weights(from_module, image_vit)
    assert load_image_weights(from_file, path).loaded == report.loaded
    for name, tensor in from_module.state_dict().items():
        assert torch.equal(tensor, from_file.state_dict()[name])


def test_a_dino_checkpoint_starts_from_its_teacher(tmp_path):
    image_vit, model = image_model(num_classes=0), video_model()
    teacher = {f"backbone.{name}": tensor for name, tensor in image_vit.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.ones(1)
    torch.save({"teacher": teacher, "student": {}, "epoch": 1}, tmp_path / "dino.pth")
    report = load_image_weights(model, str(tmp_path / "dino.pth"))
    assert report.left_out == {
        "teacher.head.mlp.0.weight": "projection head of the pretraining",
        "student": "the other network of the run; which='student' takes it",
        "epoch": "the training's own state",
    }
    assert torch.equal(model.cls_token, image_vit.cls_token)


def test_the_classifier_is_listed_as_left_out():
    report = load_image_weights(video_model(), image_model())
    assert report.left_out == {"head.weight": "classifier", "head.bias": "classifier"}
    assert {"cls_token", "pos_embed", "norm.bias"} <= set(report.loaded)


RMS = partial(nn.RMSNorm, eps=1e-6)
CLIP = {"pre_norm": True}
REFUSED = {
    "register tokens": ({"reg_tokens": 4}, "register tokens"),
    "normalised queries": ({"qk_norm": True}, r"qk_norm"),
    "pre-norm": (CLIP, r"pre-norm, as CLIP"),
    "swiglu": ({"mlp_layer": SwiGLU}, r"SwiGLU"),
    "gated mlp": ({"mlp_layer": timm.layers.GluMlp}, r"gated MLP"),
    "no class token": ({"class_token": False, "global_pool": "avg"}, "lacks a class token"),
    "norm after pooling": ({"global_pool": "avg"}, "lacks a norm on its tokens before pooling"),
    "no positions": ({"pos_embed": "none"}, "lacks a position embedding"),
    "other activation": ({"act_layer": "quick_gelu"}, "activation QuickGELU"),
    "almost gelu": ({"act_layer": "gelu_tanh"}, "activation GELUTanh"),
    "post-norm": ({"block_fn": ResPostBlock}, "ResPostBlock"),
    "no bias": ({"qkv_bias": False}, r"missing: blocks\.0\.attn\.qkv\.bias"),
    "other norm": ({"norm_layer": RMS}, r"missing: blocks\.0\.norm1\.bias"),
    "eps": ({"norm_layer": partial(nn.LayerNorm, eps=1e-5)}, r"layer_norm_eps 1e-05 .* 1e-06"),
    "width": ({"embed_dim": 64}, "width 64 but the model 32; make the model with width=64"),
    "depth": ({"depth": 3}, "depth 3 but the model 2"),
    "heads": ({"num_heads": 2}, "num_heads 2 but the model 4"),
    "patch": ({"patch_size": 8}, "patch_pixels 8 but the model 16; make .* patch_pixels=8"),
    "channels": ({"in_chans": 1}, "in_channels 1 but the model 3"),
    "mlp ratio": ({"mlp_ratio": 2}, r"fc1\.weight is \[64, 32\] .* \[128, 32\]"),
    "distilled": ({"kind": VisionTransformerDistilled}, "distillation token"),
    "eva": ({"kind": Eva}, "is a Eva, not timm's plain VisionTransformer"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_computes_something_else_is_refused_and_changes_nothing(reason):
    settings, says = REFUSED[reason]
    model, before = video_model(), video_model().state_dict()
    with pytest.raises(WeightsError, match=says) as caught:
        load_image_weights(model, image_model(**settings))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_tensor_that_nobody_expects_is_refused(tmp_path):
    tensors = image_model().state_dict() | {"surprise": torch.zeros(1, 32)}
    save_file(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="without a place: surprise"):
        load_image_weights(video_model(), tmp_path / "vit.safetensors")


def test_positions_of_no_square_grid_are_refused_from_a_file(tmp_path):
    save_file(image_model(img_size=(32, 48)).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match=r"pos_embed .* has 7 places, which is no square grid"):
        load_image_weights(video_model(), tmp_path / "vit.safetensors")


# By timm's name


def test_a_timm_name_loads_its_weights(monkeypatch):
    asked = []

    def create(name, pretrained=False):
        asked.append((name, pretrained))
        return image_model()

    monkeypatch.setattr(timm, "create_model", create)
    model = video_model()
    load_image_weights(model, "some_vit")
    assert asked == [("some_vit", False), ("some_vit", True)]
    assert torch.equal(model.cls_token, image_model().cls_token)


def test_a_download_that_fails_tells_to_give_a_file(monkeypatch):
    def create(name, pretrained=False):
        if pretrained:
            raise URLError("no network")
        return image_model()

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        WeightsError, match=r"'some_vit' can't be .*no network.* give the \.safetensors"
    ):
        load_image_weights(video_model(), "some_vit")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_bse_patch16_224", r"neither a file nor .* did you mean vit_base_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in21k", "width 192 but the model 32"),
        ("eva02_tiny_patch14_224", "not timm's plain VisionTransformer"),
        ("vit_small_patch14_reg4_dinov2", "register tokens"),
    ],
)
def test_a_name_that_cannot_fit_is_refused_before_any_download(monkeypatch, name, says):
    create = timm.create_model

    def create_without_download(name, pretrained=False):
        assert not pretrained
        return create(name)

    monkeypatch.setattr(timm, "create_model", create_without_download)
    with pytest.raises(WeightsError, match=says):
        load_image_weights(video_model(), name)
