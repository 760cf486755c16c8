import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from endofm.data.video import open_video
from endofm.data.video.frames import is_cut_off
from endofm.errors import VideoError
from tests.make import frame_index, frame_indices, numbered_frame, shared_folder, write_frames
from tests.read import read_all, refusal


def test_frames_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", map(numbered_frame, range(12)), "Frame_{}.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "sub.png").mkdir()
    with open_video(folder, "decord") as video:
        assert math.isnan(video.fps) and video.size == (96, 128) and len(video) == 12
        assert frame_indices(video.read(range(12))) == list(range(12))
        assert frame_indices(video.read([11, 2, 2])) == [11, 2, 2]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "tif", "webp", "PNG"])
def test_frames_may_be_pictures_of_many_kinds(suffix: str, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", map(numbered_frame, range(3)), "{:03d}." + suffix)
    frames = read_all(folder)
    assert frame_indices(frames) == [0, 1, 2]
    assert abs(frames[0, 8, 8].astype(int) - (250, 200, 140)).max() < 8


def test_grey_alpha_and_sixteen_bits_become_rgb(tmp_path: Path) -> None:
    frame = numbered_frame(5)
    kinds = {
        "grey": frame[..., 0],
        "alpha": np.dstack([frame[..., ::-1], frame[..., :1] // 2]),
        "deep": frame[..., ::-1].astype(np.uint16) * 257,
        "deep_grey": frame[..., 0].astype(np.uint16) * 257,
    }
    for kind, picture in kinds.items():
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "0.png"), picture)
        expected = np.repeat(frame[..., :1], 3, 2) if "grey" in kind else frame
        assert np.array_equal(read_all(tmp_path / kind)[0], expected), kind


def test_mixed_frame_sizes_name_the_odd_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", map(numbered_frame, range(5)))
    cv2.imwrite(str(folder / "3.png"), numbered_frame(3, (64, 96)))
    with open_video(folder) as video:
        assert frame_indices(video.read([4, 0])) == [4, 0]
        with pytest.raises(VideoError, match=r"3\.png is 96x64, but the first .* 128x96"):
            video.read([2, 3])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_broken_pictures_are_refused(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), np.uint8)
    folder = write_frames(tmp_path / "f", noise, "{}." + suffix)
    for content in (b"", b"text", (folder / f"1.{suffix}").read_bytes()[:-9000]):
        (folder / f"1.{suffix}").write_bytes(content)
        with (
            open_video(folder) as video,
            pytest.raises(VideoError, match=rf"1\.{suffix} is not a whole picture"),
        ):
            video.read([0, 1])


def test_a_missing_end_mark_is_seen() -> None:
    for suffix in (".jpg", ".png"):
        data = cv2.imencode(suffix, numbered_frame(0))[1].tobytes()
        assert not is_cut_off(data) and is_cut_off(data[:-20])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    assert "no frames" in refusal(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "size"),
    [("cvc_clinicdb/images/seq01", (288, 384)), ("lap_intermountain/00001-21711", (720, 1280))],
)
def test_real_folders_of_frames_are_read(folder: str, size: tuple[int, int]) -> None:
    path = shared_folder() / "real" / folder
    with open_video(path) as video:
        assert video.size == size and len(video) == len(list(path.iterdir()))
        frame = video.read([len(video) - 1])[0]
    assert frame[..., 0].mean() > frame[..., 2].mean() + 10  # tissue is red
    assert frame_index(frame) is not None
