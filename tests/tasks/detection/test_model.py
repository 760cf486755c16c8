import copy
import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from endofm.errors import ConfigError
from endofm.models.registry import create_model
from endofm.tasks.detection.model import DetectionConfig, Target, build_detection

SMALL = {"width": 32, "depth": 1, "num_heads": 2, "patch_pixels": 8, "image_pixels": 32}


def make_task(seed=0, **settings):
    torch.manual_seed(seed)
    backbone = create_model("timesformer_tiny", **SMALL, drop_path=0.0)
    return build_detection(backbone, DetectionConfig(**{"channels": 16, "num_convs": 1} | settings))


def frames(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(*boxes, classes=None):
    classes = [0] * len(boxes) if classes is None else classes
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
    )


def scenes(num_clips, num_frames, pixels, num_classes=1, seed=0):
    """Bright rectangles on noise, moving a pixel a frame; the colour is the class."""
    rng = np.random.default_rng(seed)
    clips = 0.3 * torch.from_numpy(rng.normal(size=(num_clips, 3, num_frames, pixels, pixels)))
    targets = []
    for clip in range(num_clips):
        width, height = rng.integers(pixels // 4, pixels // 2, 2)
        left, top = rng.integers(0, pixels // 2 - num_frames, 2)
        label, of_clip = clip % num_classes, []
        for frame in range(num_frames):
            corners = left + frame, top + frame, left + frame + width, top + frame + height
            across, down = slice(corners[0], corners[2]), slice(corners[1], corners[3])
            clips[clip, label, frame, down, across] += 2
            of_clip.append(target(corners, classes=[label]))
        targets.append(of_clip)
    return clips.float(), targets


def fit(task, given, targets, steps, keys=None, rate=6e-3):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(task.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        task(given, targets, keys).total.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()


def best_overlaps(task, given, targets, keys=None):
    """IoU of the surest box of each frame, 0 where the class is wrong or nothing is found."""
    found = task.predict(given, keys=keys)
    overlaps = []
    for told, true in (
        (t, g) for f, c in zip(found, targets, strict=True) for t, g in zip(f, c, strict=True)
    ):
        is_right = len(told.scores) and told.classes[0] == true.classes[0]
        overlaps.append(box_iou(told.boxes[:1], true.boxes).item() if is_right else 0.0)
    return overlaps


# Learning


def test_detection_overfits_eight_clips():
    given, targets = scenes(8, 1, 32, num_classes=2)
    task = make_task(num_classes=2, channels=32)
    untrained = copy.deepcopy(task)
    fit(task, given, targets, steps=40)
    assert np.mean(best_overlaps(task, given, targets)) > 0.75
    assert np.mean(best_overlaps(untrained, given, targets)) < 0.4
    swapped = targets[1:] + targets[:1]
    assert np.mean(best_overlaps(task, given, swapped)) < 0.4


def test_detection_in_video_learns_too_and_the_second_boxes_are_the_ones_told():
    given, targets = scenes(4, 2, 24)
    keys = torch.tensor([0, 1, 1, 0])
    targets = [[of_clip[key]] for of_clip, key in zip(targets, keys.tolist(), strict=True)]
    task = make_task(video=True, channels=8)
    before = task(given, targets, keys)
    assert before.total == sum(
        [before.focal, before.giou, before.centerness, before.video_focal, before.video_giou]
    )
    fit(task, given, targets, steps=12, keys=keys)
    after = task(given, targets, keys)
    assert after.video_focal < 0.5 * before.video_focal
    assert after.video_giou < before.video_giou
    assert [len(found) for found in task.predict(given, keys=keys)] == [1] * 4


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("labels", ["boxes", "none", "unlabelled"])
def test_gradient_or_a_zero_reaches_every_parameter(video, labels):
    task = make_task(video=video, num_convs=1)
    kinds = {"boxes": target((2, 2, 14, 20)), "none": target(), "unlabelled": None}
    keys = torch.tensor([1]) if video else None
    output = task(frames(1, 3, 2, 32, 32), [[kinds[labels]] * (1 if video else 2)], keys)
    assert all(math.isfinite(value.detach()) for value in vars(output).values())
    assert (output.total == 0) == (labels == "unlabelled")
    output.total.backward()
    missing = [n for n, p in task.named_parameters() if p.grad is None and n != "network.backbone"]
    assert not missing
    assert all(p.grad.isfinite().all() for p in task.parameters())


def test_frames_without_a_label_are_left_out_and_frames_without_boxes_are_not():
    task, given = make_task().eval(), frames(1, 3, 2, 32, 32)
    labelled = target((2, 2, 14, 20))
    both = task(given, [[labelled, labelled]])
    alone = task(given, [[labelled, None]])
    empty = task(given, [[labelled, target()]])
    assert alone.num_boxes == empty.num_boxes == 1 and both.num_boxes == 2
    assert alone.focal != empty.focal
    torch.testing.assert_close(alone.giou, empty.giou)


# Prediction


def tell(task, corners, stride, score=8.0):
    """Make a network say one box, from the point in its middle, in every frame."""
    network, centre = task.network, ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
    forward = network.forward

    def told(clip, keys):
        dense, refined, points = forward(clip, keys)
        apart = (points.centers - torch.tensor(centre)).abs().sum(1)
        at = int((apart + 1e6 * (points.strides != stride)).argmin())
        x, y = points.centers[at]
        dense.logits.fill_(-12)
        dense.logits[:, at] = score
        dense.centerness[:, at] = 8.0
        edges = [x - corners[0], y - corners[1], corners[2] - x, corners[3] - y]
        dense.distances[:, at] = torch.tensor(edges)
        return dense, refined, points

    network.forward = told
    return task


def test_boxes_are_told_in_original_pixels():
    task = tell(make_task(), (6.0, 4.0, 30.0, 20.0), stride=8)
    ((one, two),) = task.predict(frames(1, 3, 2, 32, 40), sizes=[(288, 384)])
    scale = torch.tensor([384 / 40, 288 / 32, 384 / 40, 288 / 32])
    expected = torch.tensor([[6.0, 4.0, 30.0, 20.0]]) * scale
    torch.testing.assert_close(one.boxes, expected)
    torch.testing.assert_close(two.boxes, expected)
    assert one.classes.tolist() == [0] and one.scores.item() == pytest.approx(1, abs=1e-3)


def test_odd_sizes_move_no_box_and_boxes_end_at_the_frame():
    task = tell(make_task(), (6.0, 4.0, 45.0, 30.0), stride=8)
    ((found,),) = task.predict(frames(1, 3, 1, 27, 37))
    torch.testing.assert_close(found.boxes, torch.tensor([[6.0, 4.0, 37.0, 27.0]]))
    beyond = tell(make_task(), (38.0, 28.0, 39.5, 31.0), stride=4)
    ((found,),) = beyond.predict(frames(1, 3, 1, 27, 37))
    assert found.boxes.shape == (0, 4)  # in the padding alone


def test_an_odd_size_gives_the_loss_of_the_frame_padded_by_hand():
    task, given = make_task().eval(), frames(1, 3, 1, 27, 37)
    padded = torch.nn.functional.pad(given, (0, 3, 0, 5))
    of_frame = [[target((2, 2, 20, 18))]]
    assert task(given, of_frame).total == task(padded, of_frame).total


def test_boxes_come_surest_first_and_overlapping_ones_once():
    task = make_task(num_classes=2, score_threshold=0.0, max_boxes=7, nms_iou=0.5)
    ((found, _),) = task.predict(frames(1, 3, 2, 32, 32))
    assert len(found.scores) == 7
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    for label in (0, 1):
        boxes = found.boxes[found.classes == label]
        overlaps = box_iou(boxes, boxes) - torch.eye(len(boxes))
        assert not len(boxes) or overlaps.max() <= 0.5
    assert not make_task(score_threshold=0.9).predict(frames(1, 3, 1, 32, 32))[0][0].scores.numel()


def test_a_clip_is_predicted_the_same_alone_and_in_a_batch():
    task = make_task(video=True, score_threshold=0.0, max_boxes=1)
    given = frames(2, 3, 3, 32, 32)
    keys = torch.tensor([0, 2])
    together = task.predict(given, [(64, 64), (32, 32)], keys)
    for clip, size in enumerate([(64, 64), (32, 32)]):
        (alone,) = task.predict(given[clip : clip + 1], [size], keys[clip : clip + 1])
        torch.testing.assert_close(together[clip][0].boxes, alone[0].boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(together[clip][0].scores, alone[0].scores)


@pytest.mark.parametrize(("width", "channels"), [(768, 256), (384, 128), (192, 64), (24, 16)])
def test_the_head_is_as_wide_as_the_backbone_deserves(width, channels):
    with torch.device("meta"):
        backbone = create_model("timesformer_tiny", depth=1, width=width, num_heads=1)
        network = build_detection(backbone, DetectionConfig(video=True)).network
    assert network.head.classify.in_channels == channels
    assert network.video_branch.classify.in_channels == channels
    assert network.strides == (8, 16, 32, 64, 128)


def test_predicting_leaves_the_mode_as_it_was():
    task = make_task().train()
    task.predict(frames(1, 3, 1, 32, 32))
    assert task.training


# Bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (target((20, 2, 10, 8)), "Clip 0 of the batch, frame 1: the box .* 20, 2, 10, 8 is inv"),
        (target((2, 8, 10, 8)), "inverted"),
        (target((2, 2, 40, 8)), "outside the frame of 32x32"),
        (target((-3, 2, 10, 8)), "outside the frame"),
        (target((2, 2, float("nan"), 8)), "inverted, or outside"),
        (target((2, 2, 8, 8), classes=[1]), "frame 1: a box has the class 1, but there are 1"),
        (target((2, 2, 8, 8), classes=[0, 0]), r"boxes \[1, 4\] with 2 classes"),
    ],
)  # fmt: skip
def test_boxes_that_cannot_be_are_refused_by_clip_and_frame(wrong, message):
    with pytest.raises(ConfigError, match=message):
        make_task()(frames(1, 3, 2, 32, 32), [[target(), wrong]])


def test_targets_that_do_not_lie_on_the_frames_are_refused():
    with pytest.raises(ConfigError, match=r"1 clips of 2 frame\(s\).*\[1\]"):
        make_task()(frames(1, 3, 2, 32, 32), [[target()]])
    video = make_task(video=True)
    with pytest.raises(ConfigError, match="keys"):
        video(frames(1, 3, 2, 32, 32), [[target()]])
    with pytest.raises(ConfigError, match="keys"):
        video.predict(frames(1, 3, 2, 32, 32))


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 0}, {"num_convs": 0}, {"score_threshold": 1.5}, {"nms_iou": -0.1},
     {"channels": 2}, {"max_boxes": 0}],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(ConfigError):
        DetectionConfig(**changes)
