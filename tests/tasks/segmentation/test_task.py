import copy

import numpy as np
import pytest
import torch

from endofm.errors import ConfigError
from endofm.heads.segmentation import PyramidDecoder
from endofm.losses.segmentation import IGNORED, segmentation_loss
from endofm.metrics.segmentation import class_table, score_frames
from endofm.models.registry import create_model
from endofm.models.released_segmentation import (
    ReleasedSegmentationConfig,
    build_released_segmentation,
)
from endofm.synthetic import render_clip
from endofm.tasks.segmentation.model import (
    SegmentationConfig,
    SegmentationTask,
    TokenSegmentation,
    build_segmentation,
)


def make_backbone(**settings):
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "num_heads": 2, "patch_pixels": 8, "image_pixels": 32}
    return create_model("timesformer_tiny", **sizes | {"drop_path": 0.0} | settings)


def make_released(**settings):
    torch.manual_seed(0)
    sizes = {"width": 64, "depth": 1, "num_heads": 1, "stem_depths": (1, 1, 1), "drop_path": 0.0}
    return build_released_segmentation(ReleasedSegmentationConfig(**sizes | settings))


def make_task(num_classes=2, channels=32, **settings):
    backbone = make_backbone(**settings)
    network = TokenSegmentation(backbone, PyramidDecoder(backbone.width, num_classes, channels))
    return SegmentationTask(network, SegmentationConfig(num_classes=num_classes))


def frames(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(*shape, num_classes=2):
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(2))


# Loss and prediction


def test_the_loss_is_that_of_the_scores_and_reaches_backbone_and_head():
    task, truth = make_task(3), masks(2, 3, 32, 48, num_classes=3)
    output = task(frames(2, 3, 3, 32, 48), truth)
    assert output.logits.shape == (2, 3, 3, 32, 48)
    torch.testing.assert_close(output.total, segmentation_loss(output.logits, truth).total)
    output.total.backward()
    assert task.network.backbone.patch_embed.proj.weight.grad.any()
    assert task.network.head.classify.weight.grad.any()


def test_the_configuration_weighs_the_loss():
    task, given, truth = make_task(), frames(1, 3, 2, 32, 32), masks(1, 2, 32, 32)
    config = SegmentationConfig(dice_weight=0.25, class_weights=(1.0, 5.0))
    output = SegmentationTask(task.network, config)(given, truth)
    weights = torch.tensor([1.0, 5.0])
    expected = segmentation_loss(output.logits, truth, 0.25, weights)
    torch.testing.assert_close(output.total, expected.total)
    assert not torch.isclose(output.total, task(given, truth).total)


@pytest.mark.parametrize("make", [make_backbone, make_released])
def test_prediction_has_the_original_size_whatever_the_network_was_shown(make):
    task = build_segmentation(make(), SegmentationConfig()).train()
    given = frames(1, 3, 2, 37, 50)
    assert task.predict(given).shape == (1, 2, 37, 50)
    predicted = task.predict(given, size=(101, 67))
    assert predicted.shape == (1, 2, 101, 67) and predicted.dtype == torch.uint8
    assert task.training


def test_prediction_is_the_class_of_the_highest_score_and_repeats():
    task, given = make_task(3), frames(2, 3, 2, 32, 32)
    predicted = task.predict(given)
    assert torch.equal(predicted, task.eval().logits(given, (32, 32)).argmax(2).to(torch.uint8))
    assert len(predicted.unique()) > 1


def test_masks_are_painted_where_the_backbone_s_tokens_lie():
    task = make_task().eval()
    given = frames(1, 3, 3, 32, 64)
    changed = given.clone()
    changed[0, :, 1, :8, 56:] += 3
    apart = (task.logits(changed, (32, 64)) - task.logits(given, (32, 64))).abs().sum(2)[0]
    frame, row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    assert frame == 1 and row < 16 and column >= 40


# Learning


def score(task, given, truth):
    predicted = task.predict(given).numpy()
    records = []
    for number, (found, there) in enumerate(zip(predicted, truth.numpy(), strict=True)):
        records += score_frames(str(number), range(len(there)), found, there)
    return class_table(records)[0].visible_dice


def fit(task, given, truth, steps):
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        task(given, truth).total.backward()
        optimizer.step()


def test_it_overfits_eight_synthetic_clips_but_not_where_masks_belong_to_other_clips():
    clips = [render_clip(s, None, s % 4 < 3, num_frames=3, height=48, width=48) for s in range(8)]
    truth = torch.from_numpy(np.stack([clip.masks for clip in clips]).astype(np.int64))
    task = make_task(width=64, channels=64, image_pixels=48, num_frames=3)
    pixels = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    given = task.network.input_spec.normalize(pixels)
    untrained = copy.deepcopy(task)
    fit(task, given, truth, steps=100)
    learned, swapped = score(task, given, truth), score(task, given, truth.roll(1, dims=0))
    assert learned > 0.9
    assert max(score(untrained, given, truth), swapped) < 0.6


# Networks


def test_the_released_model_learns_in_the_task():
    task = build_segmentation(make_released(image_pixels=32), SegmentationConfig())
    given, truth = frames(1, 3, 2, 32, 32), masks(1, 2, 4, 4).repeat_interleave(8, 2)
    truth = truth.repeat_interleave(8, 3)
    before = task(given, truth).total.item()
    fit(task, given, truth, steps=8)
    assert task(given, truth).total.item() < 0.8 * before


def test_a_model_of_other_classes_is_refused_until_its_last_layer_may_start_anew():
    model = make_released(image_pixels=32)
    with pytest.raises(ConfigError, match=r"2 classes, not 4.*reset_head"):
        build_segmentation(model, SegmentationConfig(num_classes=4))
    before = model.decoder.conv_more[0].weight.clone()
    task = build_segmentation(model, SegmentationConfig(num_classes=4), reset_head=True)
    assert task.logits(frames(1, 3, 1, 32, 32), (32, 32)).shape == (1, 1, 4, 32, 32)
    assert torch.equal(task.network.decoder.conv_more[0].weight, before)
    assert model.config.num_classes == model.num_classes == 4


# Bad input


def test_masks_that_do_not_lie_on_the_frames_are_refused():
    task = make_task()
    with pytest.raises(ConfigError, match=r"need masks int64 \[1, 2, 32, 32\].*\[1, 2, 16, 32\]"):
        task(frames(1, 3, 2, 32, 32), masks(1, 2, 16, 32))
    with pytest.raises(ConfigError, match="these are uint8"):
        task(frames(1, 3, 2, 32, 32), masks(1, 2, 32, 32).to(torch.uint8))


@pytest.mark.parametrize("label", [2, -1, 254])
def test_labels_out_of_range_are_refused_by_name(label):
    truth = masks(1, 2, 32, 32)
    truth[0, 0, 0, 0] = IGNORED
    task = make_task()
    task(frames(1, 3, 2, 32, 32), truth)
    truth[0, 1, 5, 5] = label
    with pytest.raises(ConfigError, match=f"label {label}, but there are 2 classes"):
        task(frames(1, 3, 2, 32, 32), truth)


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 1}, {"dice_weight": 1.5}, {"class_weights": (1.0,)},
     {"class_weights": (0.0, 0.0)}, {"class_weights": (1.0, -1.0)}],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(ConfigError):
        SegmentationConfig(**changes)
