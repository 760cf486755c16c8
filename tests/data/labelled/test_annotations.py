import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from endofm.data.labelled.annotations import check_annotations, read_boxes, read_masks
from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.errors import ManifestError, VideoError


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def labelled(root: Path, boxes: str = "frame,x1,y1,x2,y2\n", frames: int = 12) -> Segment:
    """A folder of frames 20 wide and 16 high whose i-th mask has i + 1 pixels of polyp."""
    for number in range(frames):
        picture(root / "v" / f"f_{number}.png", np.zeros((16, 20, 3), np.uint8))
        mask = np.zeros((16, 20), np.uint8)
        mask.flat[: number + 1] = 255
        picture(root / "m" / f"f_{number}.png", mask)
    (root / "boxes.csv").write_text(boxes)
    return Segment(root, "v", 2, None, masks="m", boxes="boxes.csv")


def test_the_columns_are_read_back(tmp_path: Path) -> None:
    segments = [labelled(tmp_path), Segment(tmp_path, "other.mp4", group="g")]
    write_manifest(tmp_path / "clips.csv", segments)
    first, second = read_manifest(tmp_path / "clips.csv")
    assert (first.masks, first.boxes) == ("m", "boxes.csv")
    assert (second.masks, second.boxes) == ("", "")


@pytest.mark.parametrize("column", ["masks", "boxes"])
def test_a_label_outside_the_root_is_refused(tmp_path: Path, column: str) -> None:
    (tmp_path / "root").mkdir()
    manifest = tmp_path / "root" / "clips.csv"
    manifest.write_text(f"path,{column}\na.mp4,../secret\n")
    with pytest.raises(ManifestError, match=r"'\.\./secret' leaves its root"):
        read_manifest(manifest)
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    manifest.write_text(f"path,{column}\na.mp4,link\n")
    with pytest.raises(ManifestError, match="'link' is a link that leaves its root"):
        read_manifest(manifest)


def test_masks_follow_the_clip_in_natural_order(tmp_path: Path) -> None:
    masks = read_masks(labelled(tmp_path), [0, 8, 1], size=(16, 20))
    assert masks.dtype == np.uint8
    assert masks.sum((1, 2)).tolist() == [3, 11, 4]  # the clip starts at frame 2


def test_many_classes_are_values_and_255_does_not_count(tmp_path: Path) -> None:
    segment = labelled(tmp_path)
    picture(tmp_path / "m" / "f_2.png", np.full((16, 20), 2, np.uint8))
    picture(tmp_path / "m" / "f_3.png", np.full((16, 20), 255, np.uint8))
    masks = read_masks(segment, [0, 1], num_classes=3)
    assert np.unique(masks[0]).tolist() == [2] and np.unique(masks[1]).tolist() == [255]
    picture(tmp_path / "m" / "f_2.png", np.full((16, 20), 3, np.uint8))
    with pytest.raises(VideoError, match=r"f_2.png has the value 3, but there are 3 classes"):
        read_masks(segment, [0], num_classes=3)


def test_jpeg_noise_does_not_move_a_mask_of_two_classes(tmp_path: Path) -> None:
    segment = labelled(tmp_path)
    values = np.uint8([[3, 120, 128, 250]]).repeat(16, 0).repeat(5, 1)
    picture(tmp_path / "m" / "f_2.png", cv2.cvtColor(values, cv2.COLOR_GRAY2BGR))
    (mask,) = read_masks(segment, [0])
    assert np.array_equal(mask, values > 127)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    segment = labelled(tmp_path)
    picture(tmp_path / "m" / "f_2.png", np.zeros((8, 20), np.uint8))
    check_annotations(Segment(tmp_path, "v", 0, None, masks="m"))  # looks at f_0 only
    with pytest.raises(VideoError, match=r"f_2.png is 20x8, but the frames of v.* are 20x16"):
        read_masks(segment, [0], size=(16, 20))


def test_a_mask_that_is_broken_coloured_or_absent_is_named(tmp_path: Path) -> None:
    segment = labelled(tmp_path)
    file = tmp_path / "m" / "f_2.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(VideoError, match=r"f_2.png is not a whole picture"):
        read_masks(segment, [0])
    colours = np.zeros((16, 20, 3), np.uint8)
    colours[..., 2] = 200
    picture(file, colours)
    with pytest.raises(VideoError, match=r"f_2.png has colours"):
        read_masks(segment, [0])
    with pytest.raises(VideoError, match="12 masks, so there is none for frame 12"):
        read_masks(segment, [10])
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(VideoError, match="no folder of masks at"):
        read_masks(segment, [0])


def test_boxes_are_pixel_edges_by_frame_of_the_clip(tmp_path: Path) -> None:
    segment = labelled(tmp_path, "frame,x1,y1,x2,y2\n2,1,2,3,5\n2,0,0,0,0\n4,5,6,7,8\n")
    first, second, third = read_boxes(segment, [0, 1, 2])
    assert first.corners.tolist() == [[1, 2, 4, 6], [0, 0, 1, 1]]
    assert first.corners.dtype == np.float32 and first.classes.tolist() == [0, 0]
    assert second.corners.shape == (0, 4) and len(second) == 0
    assert third.corners.tolist() == [[5, 6, 8, 9]]


def test_a_table_of_many_files_gives_each_its_own(tmp_path: Path) -> None:
    text = "path,frame,x1,y1,x2,y2,label\nv,2,1,1,2,2,b\nw,2,3,3,4,4,a\n"
    segment = labelled(tmp_path, text)
    (boxes,) = read_boxes(segment, [0], ["a", "b"])
    assert boxes.corners.tolist() == [[1, 1, 3, 3]] and boxes.classes.tolist() == [1]
    with pytest.raises(ManifestError, match=r"label 'b', which is none of the classes a, c"):
        read_boxes(segment, [0], ["a", "c"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2,5,1,3,2", "x1 5, y1 1, x2 3, y2 2 is no box"),
        ("2,-1,1,3,2", "is no box"),
        ("two,1,1,3,2", "line 2: a box needs a whole frame number"),
        ("2,1,1,3,", "line 2: a box needs"),
        ("2,1,1,20,2", "ends at x2 20, y2 2, outside its 20x16 pixels"),
        ("12,1,1,2,2", "frame 12 of v, which has 12 frames"),
    ],
)
def test_a_box_that_can_not_be_is_refused(tmp_path: Path, row: str, message: str) -> None:
    segment = labelled(tmp_path, f"frame,x1,y1,x2,y2\n{row}\n")
    with pytest.raises(ManifestError, match=message) as caught:
        check_annotations(segment)
    assert "boxes.csv" in str(caught.value)


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no column y2"):
        read_boxes(labelled(tmp_path, "frame,x1,y1,x2\n"), [0])


def test_masks_and_frames_are_counted_against_each_other(tmp_path: Path) -> None:
    segment = labelled(tmp_path)
    check_annotations(segment)
    (tmp_path / "m" / "f_11.png").unlink()
    with pytest.raises(VideoError, match=r"has 11 masks, but .* has 12 frames"):
        check_annotations(segment)
