"""Look-alikes: only motion tells the classes apart, and only where frames are good."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from endofm.cli import main
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import open_video
from endofm.errors import ConfigError
from endofm.synthetic.motion import MOTIONS, MotionSpec, render_motion, write_motions

SPEC = MotionSpec(num_videos=6, num_frames=120, pixels=48, poor_share=0.0)


def volumes(frames):
    """The dark share of every frame: where it is darker than between blood and wall."""
    smooth = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1) for frame in frames])
    return (smooth < 62).mean(axis=(1, 2))


@pytest.mark.parametrize("chamber", [0, 3])
def test_motion_is_what_its_name_says(chamber):
    filling, emptying, resting = (volumes(render_motion(SPEC, chamber, m).frames) for m in MOTIONS)
    assert filling[-10:].mean() > 2 * filling[:10].mean() and np.allclose(
        filling, emptying[::-1], atol=0.02
    )
    assert (np.diff(filling[::5]) > 0).mean() > 0.9 and np.ptp(resting) < 0.02


def test_single_frames_of_all_motions_are_alike():
    spec = replace(SPEC, num_frames=20)
    found = {
        motion: np.concatenate([volumes(render_motion(spec, c, motion).frames) for c in range(80)])
        for motion in MOTIONS
    }
    for motion in MOTIONS[:2]:
        assert ks_2samp(found[motion], found["resting"]).statistic < 0.15


def test_a_chamber_looks_alike_and_is_as_good_in_all_its_videos():
    spec = replace(SPEC, poor_share=0.5)
    videos = [render_motion(spec, 2, motion) for motion in MOTIONS]
    for other in videos[1:]:
        assert np.array_equal(videos[0].is_poor, other.is_poor)
    good = np.array([video.frames[~video.is_poor].astype(float).mean(axis=0) for video in videos])
    corners = good[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # the wall, which never moves
    assert np.ptp(corners, axis=0).max() < 6 < np.ptp(corners, axis=1).min()


def test_poor_stretches_hide_the_chamber_and_one_is_always_good():
    spec = replace(SPEC, poor_share=1.0)
    video = render_motion(spec, 0, "filling")
    assert video.is_poor.sum() == 100 and len(set(video.is_poor.reshape(6, 20).mean(axis=1))) == 2
    contrast = np.array(
        [np.ptp(cv2.GaussianBlur(f.astype(float), (0, 0), 4)) for f in video.frames]
    )
    assert max(contrast[video.is_poor]) < 0.5 * min(contrast[~video.is_poor])


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
        expected = render_motion(spec, 1, MOTIONS[1]).frames  # the second chamber's second motion
        assert np.array_equal(np.stack(list(video.read([0, 1]))), expected[..., None].repeat(3, -1))
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
    with pytest.raises(ConfigError, match="choose one of filling"):
        render_motion(SPEC, 0, "turning")
