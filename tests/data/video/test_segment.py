from pathlib import Path

import pytest

from endofm.data.manifests.manifest import Segment
from endofm.data.video import read_segment
from endofm.errors import VideoError
from tests.make import frame_indices, write_video


def test_a_segment_is_read_once_its_length_is_known(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4")
    segment = Segment(tmp_path, "v.mp4", 10, 25)
    frames, length = read_segment(segment, lambda length: [length - 1, 0, 3, 3])
    assert length == 15
    assert frame_indices(frames) == [24, 10, 13, 13]
    frames, length = read_segment(Segment(tmp_path, "v.mp4", 28), range)
    assert length == 2 and frame_indices(frames) == [28, 29]


def test_a_segment_is_scaled_down_but_never_up(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 3, (257, 341), codec="ffv1", pix_fmt="yuv444p")
    segment = Segment(tmp_path, "v.mkv")
    assert read_segment(segment, range, short_side=100)[0].shape == (3, 100, 133, 3)
    assert read_segment(segment, range, short_side=300)[0].shape == (3, 257, 341, 3)
    assert read_segment(segment, range)[0].shape == (3, 257, 341, 3)


def test_a_segment_with_fewer_frames_than_promised_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match=r"30 frames, but the manifest promises 31") as caught:
        read_segment(Segment(tmp_path, "v.mp4", 0, 31), range)
    assert str(path) in str(caught.value)
    with pytest.raises(VideoError, match="begins at frame 30"):
        read_segment(Segment(tmp_path, "v.mp4", 30), range)
    with pytest.raises(VideoError, match="no frame 5 in it"):
        read_segment(Segment(tmp_path, "v.mp4", 3, 8), lambda length: [length])
