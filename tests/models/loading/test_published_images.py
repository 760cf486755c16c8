from functools import partial

import pytest
import timm
import torch

from endofm.errors import WeightsError
from endofm.models.loading.published import load_published, load_timm
from tests.models.published import clip_of, image_model, prefixed, save


def assert_still_clip_gives_the_image_feature(model, image_vit, pixels=48):
    clip = clip_of(frames=1, pixels=pixels).expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        expected = image_vit.forward_features(clip[:, :, 0])[:, 0]
        assert torch.allclose(model(clip), expected, atol=1e-4)


IMAGES = {  # how the file wraps timm's names
    "vit.safetensors": ({}, lambda t: t, "an image ViT"),
    "dino.pth": ({}, lambda t: {"teacher": prefixed(t, "backbone."), "student": {}}, "DINO run"),
    "dinov2_vitb14_pretrain.pth": (
        {"init_values": 0.1, "patch_size": 14, "img_size": 70},
        lambda t: t | {"mask_token": torch.zeros(1, 64)},
        "a DINOv2 image ViT",
    ),
    "teacher_checkpoint.pth": (
        {"init_values": 0.1},
        lambda t: {
            "teacher": {
                f"backbone.{name}".replace("blocks.", "blocks.0."): tensor
                for name, tensor in (t | {"mask_token": torch.zeros(1, 64)}).items()
            }
            | {"dino_head.mlp.0.weight": torch.ones(2, 64), "ibot_head.mlp.0.bias": torch.ones(2)}
        },
        "a DINOv2 image ViT",
    ),
    "mae.pth": (
        {},
        lambda t: {"model": t | {"decoder_pred.bias": torch.ones(3)}, "epoch": 3},
        "an image ViT",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_weights_become_a_video_model_whose_time_is_the_identity(tmp_path, name):
    settings, wrap, title = IMAGES[name]
    image_vit = image_model(**settings)
    published = load_published(save(wrap(image_vit.state_dict()), tmp_path / name))
    pixels = settings.get("img_size", 48)
    assert_still_clip_gives_the_image_feature(published.model, image_vit, pixels)
    assert title in published.title and published.model.input_spec.pixels == pixels
    report = published.report
    own = published.model.state_dict()
    assert set(report.loaded) | set(report.started) == set(own) and report.is_exact
    assert report.started["blocks.1.temporal_attn.qkv.weight"] == "at random"
    folded = [n for n, why in report.left_out.items() if why.startswith("LayerScale, folded")]
    assert len(folded) == (4 if "init_values" in settings else 0)


def test_register_tokens_are_refused(tmp_path):
    tensors = image_model(init_values=0.1).state_dict() | {"register_tokens": torch.ones(1, 4, 64)}
    with pytest.raises(WeightsError, match="register tokens"):
        load_published(save(tensors, tmp_path / "reg.pth"))


def test_a_timm_name_brings_its_heads_eps_and_statistics(monkeypatch):
    asked = []

    def create(name, pretrained=False):
        asked.append(pretrained)
        network = image_model(num_heads=4, norm_layer=partial(torch.nn.LayerNorm, eps=1e-3))
        network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return network

    monkeypatch.setattr(timm, "create_model", create)
    model = load_timm("some_vit").model
    assert asked == [False, True]
    assert model.config.num_heads == 4 and model.config.layer_norm_eps == 1e-3
    assert model.input_spec.mean == (0.5, 0.5, 0.5) and model.input_spec.std == (0.25,) * 3
    assert_still_clip_gives_the_image_feature(model, create("some_vit"))


def test_a_timm_name_that_cannot_fit_is_refused_before_any_download(monkeypatch):
    create = timm.create_model

    def create_without_download(name, pretrained=False):
        assert not pretrained
        return create(name)

    monkeypatch.setattr(timm, "create_model", create_without_download)
    with pytest.raises(WeightsError, match="not timm's plain VisionTransformer"):
        load_timm("resnet18")
