"""Look-alikes: only motion tells the classes apart, and only where frames are good."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from endofm.cli import main
from endofm.data.manifest import read_manifest
from endofm.data.synthetic.motion import MOTIONS, MotionSpec, render_motion, write_motions
from endofm.data.video import open_video
from endofm.errors import ConfigError

SPEC = MotionSpec(num_videos=6, num_frames=60, pixels=48, poor_share=0.0)


def turns(frames, still):
    """Signs of the spot's motion from frame to frame, found by its brightness above the ground."""
    bright = np.stack([cv2.GaussianBlur(f, (0, 0), 2) - still for f in frames.mean(axis=-1)])
    places = [np.unravel_index(one.argmax(), one.shape) for one in bright]
    points = np.array([column + 1j * row for row, column in places])
    points -= (points.real.max() + points.real.min()) / 2
    points -= 1j * (points.imag.max() + points.imag.min()) / 2
    return np.sign(np.angle(points[3:] / points[:-3]))


def ground_of(spec, index):
    """What never moves: the darkest that a place gets."""
    return render_motion(spec, index, "clockwise").frames.mean(axis=-1).min(axis=0) + 12


@pytest.mark.parametrize("index", [0, 3])
def test_motion_is_what_its_name_says(index):
    still = ground_of(SPEC, index)
    told = {m: turns(render_motion(SPEC, index, m).frames, still) for m in MOTIONS[:2]}
    assert (told["clockwise"] > 0).mean() > 0.9 and (told["anticlockwise"] < 0).mean() > 0.9
    swung = render_motion(SPEC, index, "to_and_fro").frames
    forth = render_motion(SPEC, index, "clockwise").frames
    assert np.array_equal(swung[:15], forth[:15])
    apart = [
        np.abs(a.astype(float) - b).mean() for a, b in zip(swung[:30], swung[30:0:-1], strict=True)
    ]
    assert max(apart) < 12  # it comes back the way it went, but for the grain


def test_the_first_frame_is_the_same_for_every_motion():
    first = [render_motion(SPEC, 2, motion).frames[0] for motion in MOTIONS]
    assert all(np.array_equal(first[0], other) for other in first)


def test_poor_stretches_hide_the_spot_and_one_is_always_good():
    spec = replace(SPEC, poor_share=1.0)
    video = render_motion(spec, 0, "clockwise")
    assert video.is_poor.sum() == 40 and len(set(video.is_poor.reshape(3, 20).mean(axis=1))) == 2
    contrast = [np.ptp(cv2.GaussianBlur(frame.mean(axis=-1), (0, 0), 4)) for frame in video.frames]
    assert max(np.array(contrast)[video.is_poor]) < 0.5 * min(np.array(contrast)[~video.is_poor])


def test_a_corpus_has_every_motion_in_every_split_and_is_taken_up_again(tmp_path):
    spec = MotionSpec(num_videos=30, num_frames=2, pixels=32)
    command = ["synthetic-motion", str(tmp_path), "--num-videos", "30", "--num-frames", "2"]
    main([*command, "--pixels", "32"])
    manifest = tmp_path / "manifest.csv"
    rows = read_manifest(manifest)
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        found = [row.labels["motion"] for row in rows if row.split == split]
        assert sorted(found) == sorted(MOTIONS * count)
    with open_video(rows[4].file) as video:
        expected = render_motion(spec, 4, "anticlockwise").frames
        assert np.array_equal(np.stack(list(video.read([0, 1]))), expected)
    file = rows[4].file / "0001.png"
    before = file.stat().st_mtime_ns
    assert write_motions(tmp_path, spec) == manifest and file.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="made from another spec"):
        write_motions(tmp_path, replace(spec, seed=1))


def test_what_can_not_be_made_is_refused():
    for settings, says in (
        (dict(pixels=40), "multiple of 16"),
        (dict(num_videos=0), "1 to 99999 videos"),
        (dict(poor_share=2.0), "a share from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            MotionSpec(**settings)
    with pytest.raises(ConfigError, match="choose one of clockwise"):
        render_motion(SPEC, 0, "still")
