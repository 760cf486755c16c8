from dataclasses import replace

import numpy as np
import pytest
import torch

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import DataConfig, clip_views
from endofm.data.pretraining.views import ViewsConfig, cut_views, draw_indices, view_rng
from endofm.errors import ConfigError, VideoError
from tests.make import frame_index, write_video
from tests.small import VIEWS

DATA = DataConfig(short_side_pixels=48)


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    write_video(folder / "clip.mp4", 40, size=(96, 128))
    return Segment(folder, "clip.mp4", 0, 40)


def equal(one, other):
    return all(
        torch.equal(a.frames, b.frames) and torch.equal(a.color, b.color)
        for a, b in zip(one, other, strict=True)
    )


def test_views_have_the_released_number_frames_and_sizes():
    config = ViewsConfig()
    assert config.shapes == [(8, 224), (16, 224)] + [(n, 96) for n in (2, 2, 4, 4, 8, 8, 16, 16)]


def test_a_clip_is_cut_to_the_shapes_of_the_configuration(segment):
    views = clip_views(segment, VIEWS, DATA, seed=0, epoch=0)
    assert [tuple(view.frames.shape) for view in views] == [
        (frames, pixels, pixels, 3) for frames, pixels in VIEWS.shapes
    ]
    assert all(view.color.shape == (3, 4) for view in views)


def test_views_are_a_function_of_seed_epoch_and_segment(segment):
    views = clip_views(segment, VIEWS, DATA, 3, 5)
    assert equal(views, clip_views(segment, VIEWS, DATA, 3, 5))
    assert not equal(views, clip_views(segment, VIEWS, DATA, 4, 5))
    assert not equal(views, clip_views(segment, VIEWS, DATA, 3, 6))
    other = replace(segment, start_frame=1)
    assert not equal(views, clip_views(other, VIEWS, DATA, 3, 5))


def test_only_the_frames_that_views_take_are_decoded(segment, monkeypatch):
    asked = []
    from endofm.data.pretraining import dataset

    def spy(segment, choose, *args):
        asked.append(choose(40))
        return np.zeros((len(asked[-1]), 48, 64, 3), np.uint8), 40

    monkeypatch.setattr(dataset, "read_segment", spy)
    clip_views(segment, VIEWS, DATA, 0, 0)
    drawn = draw_indices(40, VIEWS, view_rng(0, 0, segment.key))
    assert asked[0] == sorted({index for view in drawn for index in view})
    assert len(asked[0]) <= sum(frames for frames, _ in VIEWS.shapes) < 40


def test_views_show_the_frames_that_were_drawn(segment):
    """The whole frame, uncropped and without colour changes, still carries its index."""
    config = ViewsConfig(
        global_frames=(4, 3),
        local_frames=(2,),
        global_pixels=96,
        local_pixels=96,
        crop_areas=(1.0, 1.0, 1.0),
        color_jitter=(0, 0, 0, 0),
    )
    from endofm.data.video import read_segment

    rng = view_rng(0, 0, segment.key)
    drawn = draw_indices(40, config, rng)
    wanted = sorted({index for view in drawn for index in view})
    frames, _ = read_segment(segment, lambda _: wanted)
    for view, indices in zip(
        cut_views(frames, [[wanted.index(i) for i in view] for view in drawn], config, rng),
        drawn,
        strict=True,
    ):
        found = [frame_index(frame) for frame in view.frames.numpy()]
        flipped = [frame_index(frame[:, ::-1]) for frame in view.frames.numpy()]
        assert indices in (found, flipped)


def test_a_clip_of_one_frame_is_refused_in_one_sentence(segment):
    with pytest.raises(VideoError, match=r"clip of 1 frame .* leave it out"):
        clip_views(replace(segment, start_frame=39), VIEWS, DATA, 0, 0)


def test_a_clip_shorter_than_its_views_repeats_frames(segment):
    views = clip_views(replace(segment, start_frame=36), VIEWS, DATA, 0, 0)
    assert views[1].frames.shape[0] == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"global_frames": ()}, "global"),
        ({"global_frames": (8,), "local_frames": ()}, "nothing to match"),
        ({"local_frames": (2, 0)}, "at least one frame"),
        ({"crop_areas": (0.5, 0.4, 1.0)}, "rising"),
        ({"color_jitter": (1.5, 0, 0, 0)}, "strength"),
    ],
)
def test_views_that_cannot_be_cut_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        ViewsConfig(**changes)
