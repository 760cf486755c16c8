import numpy as np
import pytest

from endofm.data.checks.fingerprint import thumbnail
from endofm.data.checks.ordering import assess_order
from endofm.data.manifests.manifest import Segment
from endofm.data.video import open_video
from endofm.synthetic import render_clip
from tests.shared import shared_folder


def small(frames):
    import cv2

    return np.stack(
        [cv2.resize(thumbnail(frame), (16, 16), interpolation=cv2.INTER_AREA) for frame in frames]
    )


@pytest.fixture(scope="module")
def film():
    return small(render_clip(3, "colon", True, 40, 64, 64).frames)


def test_frames_in_order_are_left_in_peace(film):
    for stretch in (film, film[::-1], film[::3], film[:8]):
        told = assess_order(stretch)
        assert not told.is_shuffled and not told.is_alphabetic


def test_shuffled_frames_are_found(film):
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(film))
        assert assess_order(film[order]).is_shuffled


def test_frames_sorted_by_names_without_zeros_are_found(film):
    for first in (0, 1):
        names = sorted(range(first, first + len(film)), key=str)
        assert assess_order(film[np.array(names) - first]).is_alphabetic


def test_pictures_that_have_nothing_to_do_with_each_other_are_not_accused():
    rng = np.random.default_rng(0)
    for _ in range(5):
        told = assess_order(rng.integers(0, 255, (40, 16, 16), np.uint8))
        assert not told.is_shuffled and not told.is_alphabetic


def test_standing_pictures_and_short_clips_are_not_accused(film):
    for frames in (np.repeat(film[:1], 30, 0), film[[3, 0, 2, 1]]):
        told = assess_order(frames)
        assert not told.is_shuffled and not told.is_alphabetic


def test_long_clips_are_judged_in_blocks(film):
    long = np.concatenate([film, film[::-1]] * 8)
    assert not assess_order(long).is_shuffled
    assert assess_order(np.random.default_rng(0).permutation(long)).is_shuffled


@pytest.mark.real
def test_real_sequences_are_not_accused():
    root = shared_folder("real")
    folders = [
        *(root / "cvc_clinicdb" / "images" / name for name in ("seq02", "seq04", "seq13")),
        root / "lap_intermountain" / "00002-22975",
    ]
    for folder in folders:
        with open_video(Segment(folder.parent, folder.name).file) as video:
            told = assess_order(small(frame for _, frame in video.stream(range(len(video)))))
        assert not told.is_shuffled and not told.is_alphabetic, folder
