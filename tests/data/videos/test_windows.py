import weakref

import numpy as np
import pytest

from endofm.data.pretraining.sampling import center_indices
from endofm.data.videos.windows import Sliding, gather, gather_until_end, windows_of_times
from endofm.errors import ConfigError, VideoError


def spacing(num_frames=4, clip=2.0, step=None, fps=10.0):
    return Sliding(num_frames, clip, step).at_rate(fps, "v")


def times(num_frames, fps=10.0):
    return np.arange(num_frames) / fps


def bounds(windows):
    return [(round(w.start, 6), round(w.stop, 6)) for w in windows]


def test_clips_touch_and_take_the_frames_of_a_center_clip():
    windows = windows_of_times(spacing(), times(60))
    assert bounds(windows) == [(0, 2), (2, 4), (4, 6)]
    for number, window in enumerate(windows):
        expected = [20 * number + index for index in center_indices(20, 4)]
        assert list(window.indices) == expected


def test_the_clip_that_reaches_the_end_is_the_last_and_repeats_the_last_frame():
    windows = windows_of_times(spacing(step=1.0), times(35))
    assert bounds(windows) == [(0, 2), (1, 3), (2, 3.5)]
    assert windows[-1].indices == (22, 27, 32, 34)


def test_a_rest_shorter_than_half_the_spacing_gets_no_clip():
    assert len(windows_of_times(spacing(), times(42))) == 2
    assert len(windows_of_times(spacing(), times(43))) == 3


def test_a_video_shorter_than_a_clip_is_one_clip_that_ends_with_it():
    (window,) = windows_of_times(spacing(), times(3))
    assert window.stop == pytest.approx(0.3) and window.indices == (2, 2, 2, 2)


def test_steps_longer_than_clips_leave_gaps():
    assert bounds(windows_of_times(spacing(step=3.0), times(75))) == [(0, 2), (3, 5), (6, 7.5)]


def test_frames_are_chosen_by_the_time_at_which_they_are_shown():
    varying = np.array([0.0, 0.1, 1.6, 1.9])
    window, *_ = windows_of_times(spacing(), varying)
    assert window.indices == (1, 1, 1, 2)


@pytest.mark.parametrize("num_frames", [1, 3, 17, 40, 41, 60, 123])
@pytest.mark.parametrize(("clip", "step"), [(2.0, None), (2.0, 0.7), (2.0, 0.1), (1.1, 3.0)])
def test_frames_without_a_known_end_give_the_same_clips(num_frames, clip, step):
    slid = spacing(clip=clip, step=step)
    expected = windows_of_times(slid, times(num_frames))
    frames = (np.array(index) for index in range(num_frames))
    clips = list(gather_until_end(frames, slid, int))
    assert bounds(clip.window for clip in clips) == bounds(expected)
    assert [tuple(clip.frames) for clip in clips] == [window.indices for window in expected]


def test_no_more_frames_are_held_than_overlapping_clips_need():
    alive, most = weakref.WeakSet(), 0

    class Prepared:
        pass

    def prepare(picture):
        one = Prepared()
        alive.add(one)
        return one

    for num_frames in (200, 5000):
        most = 0
        for clip in gather_until_end(iter(np.zeros((num_frames, 1))), spacing(step=1.0), prepare):
            most = max(most, len(alive))
            del clip
        assert most <= 2 * 4 + 1, num_frames
    windows = windows_of_times(spacing(step=1.0), times(5000))
    wanted = sorted({index for window in windows for index in window.indices})
    most = 0
    for clip in gather(((index, np.zeros(1)) for index in wanted), windows, prepare):
        most = max(most, len(alive))
        del clip
    assert most <= 2 * 4 + 1


def test_a_frame_that_two_clips_take_is_prepared_once():
    prepared = []
    windows = windows_of_times(spacing(step=0.5), times(60))
    wanted = sorted({index for window in windows for index in window.indices})
    list(
        gather(((i, np.array(i)) for i in wanted), windows, lambda p: prepared.append(int(p)) or 1)
    )
    assert prepared == wanted and sum(len(w.indices) for w in windows) > len(wanted)


@pytest.mark.parametrize("name", ["clip_seconds", "step_seconds", "source_fps"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_lengths_that_can_not_be_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Sliding(4, **{name: value})


def test_seconds_mean_nothing_without_a_rate():
    with pytest.raises(VideoError, match=r"frames a second v has, so step_seconds"):
        Sliding(4, step_seconds=1.0).at_rate(float("nan"), "v")
    in_a_row = Sliding(4).at_rate(float("nan"), "v")
    windows = windows_of_times(in_a_row, np.arange(6.0))
    assert [window.indices for window in windows] == [(0, 1, 2, 3), (4, 5, 5, 5)]
