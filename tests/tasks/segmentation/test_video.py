import itertools

import numpy as np
import pytest
import torch
from torch import nn

from endofm.errors import ConfigError, VideoError
from endofm.models.input import InputSpec
from endofm.tasks.segmentation.model import SegmentationConfig, SegmentationTask
from endofm.tasks.segmentation.video import predict_video


class Bright(nn.Module):
    """Finds class 1 where red is above the middle, and notes the clips it is shown."""

    num_classes, patch_pixels = 2, 8

    def __init__(self):
        super().__init__()
        self.input_spec = InputSpec((0, 0, 0), (1, 1, 1), num_frames=4, pixels=16)
        self.gain = nn.Parameter(torch.tensor(100.0))
        self.seen = []

    def forward(self, clip):
        self.seen.append((clip[0, 2, :, 0, 0] * 255).round().int().tolist())
        score = self.gain * (clip[:, 0] - 0.5)
        return torch.stack([-score, score], dim=2)


def make_task():
    return SegmentationTask(Bright(), SegmentationConfig())


def numbered(count, size=(24, 32)):
    """Frames whose left part is red as far as their number tells; blue is the number."""
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, : 1 + number, 0] = 255
        frame[..., 2] = number
        yield frame


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9, 12])
def test_every_frame_gets_its_own_mask_at_its_own_size_and_in_order(count):
    made = list(predict_video(make_task(), numbered(count), size=(24, 32)))
    assert len(made) == count
    for mask, frame in zip(made, numbered(count), strict=True):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, frame[..., 0] > 127)


def test_a_video_without_frames_has_no_masks():
    assert list(predict_video(make_task(), [])) == []


@pytest.mark.parametrize(
    ("count", "step", "clips"),
    [(3, None, [[0, 1, 2]]),
     (4, None, [[0, 1, 2, 3]]),
     (7, None, [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6]]),
     (8, 4, [[0, 1, 2, 3], [4, 5, 6, 7]])],
)  # fmt: skip
def test_clips_slide_by_the_step_and_the_last_one_ends_with_the_video(count, step, clips):
    task = make_task()
    list(predict_video(task, numbered(count), step=step))
    assert task.network.seen == clips


def test_masks_come_while_frames_are_read_so_that_memory_does_not_grow():
    read = []

    def endless():
        for frame in itertools.cycle(numbered(30)):
            read.append(len(read))
            yield frame

    masks = predict_video(make_task(), endless())
    for number in range(100):
        next(masks)
        assert len(read) <= number + 4


def test_clips_that_share_a_frame_are_averaged():
    task = make_task()
    predictions = iter([0.9, 0.2])  # chances of class 1 of whole clips
    network = task.network

    def prediction(clip):
        chance = torch.full((1, clip.shape[2], *clip.shape[3:]), next(predictions))
        return torch.stack([1 - chance, chance], dim=2).log()

    network.forward = prediction
    made = [int(mask.max()) for mask in predict_video(task, numbered(6))]
    assert made == [1, 1, 1, 1, 0, 0]  # by twos: 0.9, the mean of both, 0.2


def test_frames_of_several_sizes_are_masked_each_at_its_own():
    frames = [*numbered(2, (24, 32)), *numbered(3, (17, 41))]
    shapes = [mask.shape for mask in predict_video(make_task(), frames)]
    assert shapes == [(24, 32)] * 2 + [(17, 41)] * 3


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_that_leaves_frames_out_is_refused_before_a_frame_is_read(step):
    with pytest.raises(ConfigError, match="step from 1 to 4"):
        predict_video(make_task(), numbered(3), step=step)


def test_what_is_no_frame_is_refused_by_its_number():
    frames = [*numbered(2), np.zeros((24, 32), np.uint8)]
    with pytest.raises(VideoError, match=r"Frame 2 is uint8 \[24, 32\]"):
        list(predict_video(make_task(), frames))
