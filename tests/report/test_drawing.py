import av
import numpy as np
import pytest

from endofm.report.drawing import (
    TOLD,
    TRUE,
    draw_boxes,
    draw_classes,
    draw_mask,
    fitted,
    grid,
    legend,
    shortened,
    titled,
)
from endofm.report.film import film

GREY = np.full((60, 120, 3), 90, np.uint8)
NONE = np.zeros((0, 4))


def has(picture, color):
    return (np.abs(picture.astype(int) - color).max(-1) < 12).any()


def where(picture, color):
    rows, columns = np.nonzero(np.abs(picture.astype(int) - color).max(-1) < 12)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_frame_is_fitted_whole_into_a_square():
    picture = fitted(GREY, 100)
    assert picture.shape == (100, 100, 3)
    assert (picture[26:74] == 90).all() and (picture[:24] == 0).all() and (picture[76:] == 0).all()
    assert fitted(GREY.transpose(1, 0, 2), 100).shape == (100, 100, 3)


def test_boxes_lie_where_they_are_told_at_any_size():
    true = np.array([[20, 10, 60, 40]])
    picture = draw_boxes(GREY, 240, true, NONE, np.zeros(0))
    # Twice the size, 60 pixels of black above; lines are two pixels wide.
    assert np.abs(np.array(where(picture, TRUE)) - [40, 80, 119, 139]).max() <= 2
    assert not has(picture, TOLD)
    both = draw_boxes(GREY, 240, true, np.array([[70, 10, 110, 50]]), np.array([0.8]), ["polyp"])
    assert has(both, TRUE) and has(both, TOLD)
    assert where(both, TOLD)[2] == pytest.approx(219, abs=2)
    assert not has(draw_boxes(GREY, 240, NONE, NONE, np.zeros(0)), TOLD)


def test_a_box_at_the_frames_corner_keeps_its_score_in_the_picture():
    picture = draw_boxes(GREY[:, :60], 100, NONE, np.array([[0, 0, 10, 10]]), np.array([0.5]))
    assert picture.shape == (100, 100, 3) and has(picture, TOLD)


def test_masks_are_tinted_where_told_and_outlined_where_true():
    true, told = np.zeros((60, 120), int), np.zeros((60, 120), int)
    true[10:30, 20:60], told[20:40, 80:110] = 1, 1
    picture = draw_mask(GREY, 240, true, told)
    assert np.abs(np.array(where(picture, TRUE)) - [40, 80, 119, 119]).max() <= 2
    assert np.abs(np.array(where(picture, TOLD)) - [160, 100, 219, 139]).max() <= 2
    assert picture[120, 190, 0] > 100 and picture[120, 190, 2] < 90  # tinted
    assert (picture[100, 80] == 90).all()  # not: only true
    ignored = np.full((60, 120), 255)
    assert not has(draw_mask(GREY, 240, ignored, np.zeros_like(told)), TRUE)


def test_bars_are_as_long_as_probabilities_and_true_classes_are_always_there():
    names = [f"class {number}" for number in range(8)]
    told = [0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02, 0.0]
    picture = draw_classes(GREY, 212, names, told, truth=[6])
    panel = picture[212:]
    # 200 pixels are a probability of 1; the letters on the bar leave its edges.
    left, _, right, _ = where(panel[:26], TOLD)
    assert (left, right) == pytest.approx((6, 105), abs=1)
    assert has(panel[-30:], TRUE) and not has(panel[:-30], TRUE)
    assert has(draw_classes(GREY, 212, names, told, truth=[0])[212:238], TRUE)


def test_long_names_give_way_in_the_middle():
    name = "a/very/long/path/of/many/folders/that/ends/in/video_12.mp4"
    short = shortened(name, 200, 0.45)
    assert "..." in short and short.startswith("a/very") and short.endswith("12.mp4")
    assert shortened("short", 200, 0.45) == "short" and shortened("über", 200, 0.45) == "?ber"


def test_pictures_stand_in_rows_under_titles():
    picture = titled(fitted(GREY, 100), "name", "note")
    assert picture.shape == (148, 100, 3)
    sheet = grid([picture, picture[:120], picture], columns=2)
    assert sheet.shape == (158 * 2, 2 * 110 + 10, 3)
    assert legend(200).shape == (28, 200, 3)


def test_a_film_has_every_picture_and_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    with film(path, (64, 48), 10) as add:
        for level in range(5):
            add(np.full((64, 48, 3), 40 * level, np.uint8))
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [round(f.mean() / 40) for f in frames] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError), film(tmp_path / "half.mp4", (64, 48), 10) as add:
        add(np.zeros((64, 48, 3), np.uint8))
        raise ZeroDivisionError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]
