from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from endofm.data.manifests.folder import manifest_from_folder
from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.data.video import read_segment
from endofm.errors import ManifestError
from tests.make import (
    frame_indices,
    numbered_frame,
    overwrite,
    shared_folder,
    write_frames,
    write_video,
)

SMALL = (48, 64)


def bounds(folder: Path, **options: object) -> list[tuple[str, int, int | None]]:
    segments, left_out = manifest_from_folder(folder, **options)
    assert left_out == []
    return [(s.path, s.start_frame, s.stop_frame) for s in segments]


@pytest.mark.parametrize(
    ("num_frames", "cuts"),
    [(10, [0, 10]), (20, [0, 20]), (39, [0, 39]), (40, [0, 20, 40]), (65, [0, 20, 40, 65])],
)
def test_videos_are_cut_end_to_end_and_the_last_clip_takes_the_remainder(
    num_frames: int, cuts: list[int], tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", num_frames, SMALL, fps=10)
    expected = [("v.mp4", start, stop) for start, stop in pairwise(cuts)]
    assert bounds(tmp_path, clip_seconds=2.0) == expected


def test_no_clip_is_of_fewer_frames_than_a_clip_needs(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 7, SMALL, fps=1)
    cuts = [("v.mp4", 0, 2), ("v.mp4", 2, 4), ("v.mp4", 4, 7)]
    assert bounds(tmp_path, clip_seconds=1.0) == cuts
    assert len(bounds(tmp_path, clip_seconds=1.0, min_frames=1)) == 7


def test_without_clip_seconds_a_video_is_one_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 65, SMALL, fps=10)
    assert bounds(tmp_path, clip_seconds=None) == [("v.mp4", 0, 65)]


def test_a_tree_is_walked_in_natural_order(tmp_path: Path) -> None:
    for name in ("v10.mp4", "v2.MP4", "b/v.mkv", "a10/v.mp4", "a9/v.mp4"):
        write_video(tmp_path / "made.mkv", 5, SMALL)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "made.mkv").rename(tmp_path / name)
    write_frames(tmp_path / "a9/frames", map(numbered_frame, range(3)))
    for name in (".hidden.mp4", "._v2.mp4", "notes.txt"):
        (tmp_path / name).write_text("x")
    write_frames(tmp_path / ".thumbnails", map(numbered_frame, range(3)))
    segments, left_out = manifest_from_folder(tmp_path)
    paths = ["v2.MP4", "v10.mp4", "a9/v.mp4", "a9/frames", "a10/v.mp4", "b/v.mkv"]
    assert [segment.path for segment in segments] == paths
    assert [segment.group for segment in segments] == paths
    assert left_out == []


def test_a_folder_of_frames_is_one_clip(tmp_path: Path) -> None:
    write_frames(tmp_path / "seq", map(numbered_frame, range(400)), "{}.bmp")
    assert bounds(tmp_path) == [("seq", 0, 400)]
    assert bounds(tmp_path / "seq") == [(".", 0, 400)]


def test_folders_of_labels_are_left_out_and_said_so(tmp_path: Path) -> None:
    for name in ("masks/seq01", "GT", "train_labels", "images", "gtx"):
        write_frames(tmp_path / name, map(numbered_frame, range(3)))
    segments, left_out = manifest_from_folder(tmp_path)
    assert [segment.path for segment in segments] == ["gtx", "images"]
    assert [line.split(" is named like")[0] for line in left_out] == [
        str(tmp_path / name) for name in ("GT", "masks", "train_labels")
    ]


def test_every_file_left_out_has_a_sentence(tmp_path: Path) -> None:
    overwrite(write_video(tmp_path / "damaged.mp4"), 0.4)
    (tmp_path / "empty.mp4").touch()
    write_video(tmp_path / "fine.mp4")
    write_video(tmp_path / "short.mp4", 1)
    write_frames(tmp_path / "still", [numbered_frame(0)])
    write_frames(tmp_path / "stills", [np.zeros((8 + i, 8, 3), np.uint8) for i in range(3)])
    segments, left_out = manifest_from_folder(tmp_path)
    assert [segment.path for segment in segments] == ["fine.mp4"]
    for line, (name, reason) in zip(
        left_out,
        [
            ("damaged.mp4", "damaged"),
            ("empty.mp4", "0 bytes"),
            ("short.mp4", "has 1 frame, fewer than 2"),
            ("still", "has 1 frame, fewer than 2"),
            ("stills/1.png", "is 8x9, but the first"),
        ],
        strict=True,
    ):
        assert line.startswith(str(tmp_path / name)) and reason in line and line.endswith(".")


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_video(folder / "v.mp4", 5, SMALL)
    write_video(tmp_path / "out/v.mp4", 5, SMALL)
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "out")
    (folder / "w.mp4").symlink_to(folder / "v.mp4")
    segments, left_out = manifest_from_folder(folder)
    assert [segment.path for segment in segments] == ["v.mp4"]
    assert len(left_out) == 3 and all("is a link" in line for line in left_out)


def test_names_that_a_manifest_cannot_hold_are_left_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 5, SMALL)
    try:
        path.rename(tmp_path / "v\udcff.mp4")
    except (OSError, UnicodeError):
        pytest.skip("this file system only has UTF-8 names")
    segments, left_out = manifest_from_folder(tmp_path)
    assert segments == [] and "not UTF-8" in left_out[0]
    left_out[0].encode()


def test_progress_is_told(tmp_path: Path) -> None:
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", 3, SMALL)
    told: list[tuple[int, int]] = []
    manifest_from_folder(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a folder"):
        manifest_from_folder(tmp_path / "absent")
    with pytest.raises(ManifestError, match="longer than 0"):
        manifest_from_folder(tmp_path, clip_seconds=0)
    with pytest.raises(ManifestError, match="clip_seconds is inf"):
        manifest_from_folder(tmp_path, clip_seconds=float("inf"))


def test_rows_lead_back_to_their_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "d/ü v.mp4", 50, fps=10)
    write_frames(tmp_path / "seq", map(numbered_frame, range(6)))
    segments, _ = manifest_from_folder(tmp_path, clip_seconds=2.0)
    write_manifest(tmp_path / "clips.csv", segments)
    shown = [
        frame_indices(read_segment(segment, range)[0])
        for segment in read_manifest(tmp_path / "clips.csv")
    ]
    assert shown == [list(range(20)), list(range(20, 50)), list(range(6))]


@pytest.mark.real
def test_real_folders_become_clips_without_their_masks() -> None:
    real = shared_folder() / "real"
    segments, left_out = manifest_from_folder(real / "cvc_clinicdb")
    assert [segment.path for segment in segments] == [f"images/seq{i:02d}" for i in range(1, 18)]
    assert sum(segment.num_frames or 0 for segment in segments) == 363
    assert len(left_out) == 1 and "masks is named like" in left_out[0]


@pytest.mark.real
def test_real_stills_of_many_sizes_are_no_clip() -> None:
    segments, left_out = manifest_from_folder(shared_folder() / "real/kvasir_seg")
    assert segments == []
    assert any("frames of one clip must have one size" in line for line in left_out)
