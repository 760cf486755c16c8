import json
import re
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from endofm.errors import ConfigError, WeightsError
from endofm.models.input import InputSpec
from endofm.models.loading.released_segmentation_weights import (
    account,
    load_released_segmentation,
    load_released_tensors,
)
from endofm.models.released_segmentation import (
    ReleasedInput,
    ReleasedSegmentationConfig,
    build_released_segmentation,
)
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from tests.shared import shared_folder

SMALL = ReleasedSegmentationConfig(
    width=64, depth=2, num_heads=1, stem_depths=(1, 2, 1), image_pixels=64, drop_path=0.0
)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = build_released_segmentation(SMALL).eval()
    for block in model.blocks:  # time starts with little effect
        nn.init.normal_(block.temporal_attn.proj.weight)
        nn.init.normal_(block.temporal_fc.weight)
    return model


def clip(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_name(own):
    """The published name of one of our tensors, written down apart from the library."""
    if own.startswith("decoder."):
        return own
    if own == "pos_embed":
        return "transformer.embeddings.position_embeddings"
    own = re.sub(r"^head\.", "segmentation_head.0.", own)
    own = re.sub(r"^patch_embed\.", "transformer.embeddings.patch_embeddings.", own)
    own = re.sub(r"^blocks\.", "transformer.encoder.layer.", own)
    own = re.sub(r"^norm\.", "transformer.encoder.encoder_norm.", own)
    own = re.sub(r"^cls_token", "transformer.encoder.cls_token", own)
    if not own.startswith("stem.net."):
        return own
    own = own.removeprefix("stem.net.")
    own = own.replace("downsample.conv.", "downsample.").replace("downsample.norm.", "gn_proj.")
    own = own.replace("stem.norm.", "root.gn.").replace("stem.conv.", "root.conv.")
    own = re.sub(r"\.norm(\d)\.", r".gn\1.", own)
    numbers = r"stages\.(\d)\.blocks\.(\d)"
    own = re.sub(numbers, lambda m: f"body.block{int(m[1]) + 1}.unit{int(m[2]) + 1}", own)
    return f"transformer.embeddings.hybrid_model.{own}"


def published_tensors(model):
    return {published_name(name): t.clone() for name, t in model.state_dict().items()}


# As released


def rule_made(name, shape):
    """A tensor filled by the rule of the golden folder's README."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * abs(values)
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    else:
        values = 0.02 * values
    return torch.from_numpy(values).float()


@pytest.mark.golden
def test_every_published_tensor_finds_its_place_and_the_output_is_the_released_one(tmp_path):
    shapes = json.loads(shared_folder("golden", "published_segmentation_keys.json").read_text())
    golden = load_file(shared_folder("golden", "segmentation_released.safetensors"))
    tensors = {name: rule_made(name, shape) for name, shape in shapes.items()}
    file = tmp_path / "cvc.pth"
    torch.save(tensors, file)
    model = load_released_segmentation(file)
    assert model.config == ReleasedSegmentationConfig()
    report = account(model, tensors)
    assert report.is_exact and not report.left_out and not report.started
    assert list(report.loaded) == list(model.state_dict())
    assert sorted(report.loaded.values()) == sorted(shapes)
    assert all(published_name(own) == name for own, name in report.loaded.items())
    with torch.no_grad():
        logits = model(golden["input"].transpose(0, 1)[None])[0]
    assert logits.shape == golden["logits"].shape
    assert (logits - golden["logits"]).norm() / golden["logits"].norm() < 1e-5


# Weights


def test_a_published_file_of_other_sizes_is_read_by_its_names_and_shapes(tmp_path, small):
    file = tmp_path / "small.pth"
    torch.save({f"module.{n}": t for n, t in published_tensors(small).items()}, file)
    loaded = load_released_segmentation(file)
    assert loaded.config == ReleasedSegmentationConfig(
        width=64, depth=2, num_heads=1, stem_depths=(1, 2, 1), image_pixels=64
    )
    assert not loaded.training
    given = clip(1, 3, 2, 64, 64)
    assert torch.equal(loaded(given), small(given))


def test_what_takes_no_part_is_left_out_with_a_reason(small):
    tensors = published_tensors(small)
    names = ["pos_embed", "transformer.encoder.time_embed", "head.mlp.0.weight"]
    report = load_released_tensors(small, tensors | dict.fromkeys(names, torch.zeros(1)))
    assert list(report.left_out) == names
    assert all(reason.startswith("Endo-FM's") for reason in report.left_out.values())
    assert set(report.loaded.values()) == set(tensors)


def spoil_missing(tensors):
    del tensors["decoder.blocks.2.conv1.1.running_var"]


def spoil_unknown(tensors):
    tensors["transformer.encoder.layer.0.extra"] = torch.zeros(3)


def spoil_twice(tensors):
    tensors["blocks.0.norm1.weight"] = torch.zeros(64)


def spoil_shape(tensors):
    tensors["transformer.encoder.cls_token"] = torch.zeros(1, 1, 32)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(spoil_missing, r"1 tensors are missing \(decoder.blocks.2.conv1.1.running_var\)"),
     (spoil_unknown, r"1 have no place in it \(transformer.encoder.layer.0.extra\)"),
     (spoil_twice, r"1 have no place in it \(blocks.0.norm1.weight\)"),
     (spoil_shape, r"cls_token is \[1, 1, 32\] instead of \[1, 1, 64\]")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_before_anything_changes(small, spoil, words):
    tensors = {name: t + 1 for name, t in published_tensors(small).items()}
    spoil(tensors)
    before = small.head.weight.clone()
    with pytest.raises(WeightsError, match=words):
        load_released_tensors(small, tensors)
    assert torch.equal(small.head.weight, before)


def test_a_file_of_something_else_is_refused_in_words(tmp_path):
    save_file({"blocks.0.norm1.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not the released segmentation weights"):
        load_released_segmentation(tmp_path / "other.safetensors")


# The network


@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (2, 3, 3, 48, 80), (1, 3, 5, 64, 64)])
def test_any_size_that_16_divides_and_any_number_of_frames_give_scores_of_every_pixel(small, shape):
    batch, _, frames, height, width = shape
    logits = small(clip(*shape))
    assert logits.shape == (batch, frames, 2, height, width)
    assert logits.isfinite().all()


def test_frames_of_a_clip_see_each_other_but_clips_do_not(small):
    given = clip(2, 3, 3, 32, 32)
    changed = given.clone()
    changed[0, :, 2] *= -5
    one, two = small(given), small(changed)
    apart = (one - two).abs().amax(dim=(2, 3, 4))  # [B, T]
    assert apart[0].min() > 100 * apart[1].max()


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    model = build_released_segmentation(SMALL).train()
    nn.init.normal_(model.blocks[1].temporal_fc.weight, std=0.2)
    (model(clip(2, 3, 2, 64, 64)) * clip(2, 2, 2, 64, 64, seed=2)).sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_a_pretrained_backbone_gives_its_blocks_norm_and_class_token():
    torch.manual_seed(1)
    model = build_released_segmentation(SMALL)
    backbone = TimeSformer(TimeSformerConfig(width=64, depth=2, num_heads=1, image_pixels=32))
    before = model.pos_embed.clone()
    model.start_from(backbone)
    own = model.state_dict()
    taken = [n for n in backbone.state_dict() if n.startswith(("blocks.", "norm.", "cls_token"))]
    assert len(taken) == 2 * 20 + 3
    for name in taken:
        assert torch.equal(own[name], backbone.state_dict()[name])
    assert torch.equal(model.pos_embed, before)
    with pytest.raises(ConfigError, match="depth 3, but the segmentation model 2"):
        model.start_from(TimeSformer(TimeSformerConfig(width=64, depth=3, num_heads=1)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 3, 2, 40, 64), "40 x 64.*multiples of 16.*48 x 64"),
     ((1, 3, 2, 16, 64), "16 x 64.*32 x 64"),
     ((1, 1, 2, 64, 64), r"\[1, 1, 2, 64, 64\]"),
     ((3, 2, 64, 64), r"\[3, 2, 64, 64\]")],
)  # fmt: skip
def test_clips_that_do_not_fit_are_refused_in_words(small, shape, words):
    with pytest.raises(ConfigError, match=words):
        small(torch.zeros(shape))


@pytest.mark.parametrize(
    "changes", [{"num_classes": 1}, {"stem_depths": (3, 0, 9)}, {"num_heads": 5}]
)
def test_configurations_that_cannot_be_built_are_refused(changes):
    with pytest.raises(ConfigError):
        ReleasedSegmentationConfig(**changes)


# Input


def test_the_released_input_spans_each_frame_from_minus_one_to_one_in_reversed_channels():
    frames = torch.zeros(1, 2, 1, 2, 3, dtype=torch.uint8)
    frames[0, 0, 0] = torch.tensor([[50, 100, 150], [150, 100, 50]])
    frames[0, 1] = 77  # of one value
    made = ReleasedInput().normalize(frames)
    assert made.shape == (1, 3, 2, 1, 2)
    torch.testing.assert_close(made[0, :, 0, 0, 0], torch.tensor([1.0, 0.0, -1.0]))
    torch.testing.assert_close(made[0, :, 0, 0, 1], torch.tensor([-1.0, 0.0, 1.0]))
    assert (made[0, :, 1] == -1).all()


def test_the_model_states_its_input(small):
    assert isinstance(small.input_spec, InputSpec)
    assert small.input_spec == ReleasedInput(pixels=64)
