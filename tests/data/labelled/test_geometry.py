import numpy as np
import pytest

from endofm.data.labelled.annotations import Boxes
from endofm.data.labelled.geometry import Geometry, draw_geometry, square, whole
from endofm.data.transforms import Crop


def scene(size=(60, 80), box=(30, 14, 54, 38)):
    """A frame, its mask and its box (x1, y1, x2, y2 at edges)."""
    left, top, right, bottom = box
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    frame = np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)
    return frame[None], mask[None], Boxes(np.array([box], np.float32), np.array([0]))


def around(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(12))
def test_frames_masks_and_boxes_of_a_draw_stay_together(seed):
    frames, masks, boxes = scene()
    rng = np.random.default_rng(seed)
    turn = 0.0 if seed < 6 else 8.0
    geometry = draw_geometry((60, 80), 64, (0.6, 1.0), turn, True, seed % 2 == 0, rng)
    shown, mask, moved = (
        geometry.frames(frames)[0, ..., 0] > 127,
        geometry.masks(masks)[0],
        geometry.boxes(boxes, (60, 80)),
    )
    inside = mask == 1
    assert (shown != inside)[mask != 255].mean() < 0.02
    if inside.sum() > 300:
        reach = 1.5 if not turn else 5  # a turned box becomes the upright one around it
        assert moved.corners[0] == pytest.approx(around(inside), abs=reach)


def test_masks_and_boxes_of_the_files_own_size_follow_smaller_frames():
    frames, masks, boxes = scene()
    geometry = square((30, 40), 32)
    mask = geometry.masks(masks)[0]
    moved = geometry.boxes(boxes, (60, 80))
    assert moved.corners[0] == pytest.approx(around(mask == 1), abs=1.2)
    del frames


def test_a_box_is_cut_at_the_edge_and_dropped_where_little_is_left():
    geometry = Geometry((100, 100), 50, Crop(0, 0, 50, 50, False))
    boxes = Boxes(
        np.array([[40, 40, 60, 60], [40, 10, 52, 20], [60, 60, 80, 80]], np.float32), np.arange(3)
    )
    moved = geometry.boxes(boxes, (100, 100))
    assert moved.corners.tolist() == [[40, 40, 50, 50], [40, 10, 50, 20]]
    assert moved.classes.tolist() == [0, 1]
    mirrored = Geometry((100, 100), 50, Crop(0, 0, 50, 50, True)).boxes(boxes, (100, 100))
    assert mirrored.corners.tolist() == [[0, 40, 10, 50], [0, 10, 10, 20]]


def test_beyond_the_turned_frame_masks_do_not_count():
    _, masks, _ = scene()
    turned = Geometry((60, 80), 64, Crop(0, 0, 60, 80, False), degrees=20.0).masks(masks)
    assert set(np.unique(turned)) == {0, 1, 255} and turned[0, 0, 0] == 255


def test_no_augmentation_is_the_middle_square_or_the_whole_frame():
    rng = np.random.default_rng(0)
    drawn = draw_geometry((60, 60), 32, (1.0, 1.0), 0.0, False, True, rng)
    assert drawn == square((60, 60), 32)
    assert draw_geometry((60, 80), 32, (1.0, 1.0), 0.0, False, False, rng) == whole((60, 80), 32)
    lefts = [square((60, 80), 32, number, 3).crop.left for number in range(3)]
    assert lefts == [0, 10, 20] and square((60, 80), 32).crop.left == 10


def test_no_boxes_stay_no_boxes():
    none = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert len(whole((60, 80), 32).boxes(none, (60, 80))) == 0
