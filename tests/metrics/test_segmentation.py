import math
import random

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from endofm.errors import ConfigError
from endofm.metrics.segmentation import (
    IGNORED,
    class_table,
    dice,
    distinct,
    hausdorff95,
    iou,
    legacy_dice,
    score_frames,
    sequence_table,
)


def square(top, left, side, size=(12, 16)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((12, 16), bool)
ONE = square(2, 2, 4)  # 16 pixels
SHIFTED = square(2, 4, 4)  # shares 8 of them


def score(predicted, truth, sequence="a", frames=None):
    predicted, truth = np.stack(predicted).astype(np.uint8), np.stack(truth).astype(np.uint8)
    return score_frames(sequence, frames or range(len(truth)), predicted, truth)


# Frames


def test_dice_and_iou_are_worked_out_by_hand():
    (record,) = score([SHIFTED], [ONE])
    assert (record.predicted, record.true, record.shared) == (16, 16, 8)
    assert record.dice == 0.5
    assert record.iou == pytest.approx(8 / 24)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [(EMPTY, EMPTY, 1.0), (ONE, EMPTY, 0.0), (EMPTY, ONE, 0.0), (ONE, ONE, 1.0)],
)
def test_empty_masks_are_right_when_nothing_is_found_and_wrong_otherwise(
    predicted, truth, expected
):
    (record,) = score([predicted], [truth])
    assert record.dice == record.iou == expected
    assert math.isnan(record.hd95) == (not (predicted.any() and truth.any()))


def test_ignored_pixels_count_nowhere():
    truth = ONE.astype(np.uint8)
    truth[:, 4:] = IGNORED
    (record,) = score_frames("a", [0], SHIFTED[None].astype(np.uint8), truth[None])
    assert (record.predicted, record.true, record.shared) == (0, 8, 0)


def test_classes_are_scored_apart():
    truth = ONE.astype(np.uint8) + 2 * square(8, 10, 3)
    predicted = ONE.astype(np.uint8)
    one, two = score_frames("a", [7], predicted[None], truth[None], labels=(1, 2))
    assert (one.label, one.frame, one.dice) == (1, 7, 1.0)
    assert (two.label, two.frame, two.dice) == (2, 7, 0.0)


def test_arrays_of_another_size_are_refused():
    with pytest.raises(ConfigError, match=r"Sequence a.*\[1, 12, 16\].*\[1, 6, 16\]"):
        score_frames("a", [0], ONE[None].astype(int), ONE[None, :6].astype(int))
    with pytest.raises(ConfigError, match="for 2 frames"):
        score_frames("a", [0, 1], ONE[None].astype(int), ONE[None].astype(int))


# Outlines


def slow_hausdorff95(one, two):
    """By the definition: every outline pixel to every other."""
    outlines = []
    for mask in (one, two):
        wide = np.pad(mask, 1)
        inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
        outlines.append(np.argwhere(mask & ~inner))
    apart = cdist(*outlines)
    return np.percentile(np.concatenate([apart.min(1), apart.min(0)]), 95)


def test_hd95_is_worked_out_by_hand():
    assert hausdorff95(ONE, ONE) == 0
    assert hausdorff95(square(0, 0, 1), square(3, 4, 1)) == 5
    one, two = EMPTY.copy(), EMPTY.copy()
    one[0, :10], two[0, :10] = True, True
    two[6, 0] = True  # one pixel of 21 lies 6 away: rank 19 of 0 to 20 is the 95th percentile
    assert hausdorff95(one, two) == 0
    two[6, 2] = True  # two of 22: rank 19.95, between 0 and 6
    assert hausdorff95(one, two) == pytest.approx(0.95 * 6)


def test_hd95_equals_its_definition_and_is_symmetric():
    rng = np.random.default_rng(0)
    for _ in range(30):
        one = square(*rng.integers(0, 8, 2), rng.integers(1, 6)) | (rng.random((12, 16)) < 0.05)
        two = square(*rng.integers(0, 8, 2), rng.integers(1, 6)) | (rng.random((12, 16)) < 0.05)
        expected = slow_hausdorff95(one, two)
        assert hausdorff95(one, two) == pytest.approx(expected)
        assert hausdorff95(two, one) == pytest.approx(expected)


def test_outlines_at_the_frame_s_edge_and_apart_from_it_are_found_alike():
    full = np.ones((12, 16), bool)
    assert hausdorff95(full, full[:, ::-1]) == 0
    expected = slow_hausdorff95(full, square(2, 2, 4))
    assert hausdorff95(full, square(2, 2, 4)) == pytest.approx(expected) and expected > 5


# Tables

FRAMES_A = score([ONE, SHIFTED, EMPTY, ONE], [ONE, ONE, EMPTY, EMPTY], "a")
FRAMES_B = score([EMPTY, SHIFTED], [ONE, SHIFTED], "b")


def test_a_sequence_pools_its_pixels():
    one, two = sequence_table(FRAMES_A + FRAMES_B)
    assert (one.sequence, one.frames, two.sequence, two.frames) == ("a", 4, "b", 2)
    assert one.dice == pytest.approx(2 * (16 + 8) / (48 + 32))
    assert one.iou == pytest.approx((16 + 8) / (48 + 32 - 24))
    assert one.hd95 == pytest.approx((0 + hausdorff95(SHIFTED, ONE)) / 2)
    assert two.dice == pytest.approx(2 * 16 / (16 + 32))


def test_the_class_table_is_worked_out_by_hand():
    (row,) = class_table(FRAMES_A + FRAMES_B)
    assert (row.frames, row.visible_frames, row.sequences) == (6, 4, 2)
    assert row.frame_dice == pytest.approx((1 + 0.5 + 1 + 0 + 0 + 1) / 6)
    assert row.frame_iou == pytest.approx((1 + 1 / 3 + 1 + 0 + 0 + 1) / 6)
    assert row.visible_dice == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert (row.missed_frames, row.false_alarm_frames, row.hd95_frames) == (1, 1, 3)
    assert row.hd95 == pytest.approx(hausdorff95(SHIFTED, ONE) / 3)
    assert row.sequence_dice == pytest.approx((48 / 80 + 32 / 48) / 2)


def test_tables_do_not_depend_on_order_and_count_repeated_frames_once():
    records = FRAMES_A + FRAMES_B
    shuffled = records + FRAMES_A[:3]
    random.Random(0).shuffle(shuffled)
    assert class_table(shuffled) == class_table(records)
    assert sequence_table(shuffled) == sequence_table(records)
    assert distinct([*records, *records]) == records


def test_nothing_to_average_is_told_as_nan():
    (row,) = class_table(score([EMPTY], [EMPTY]))
    assert math.isnan(row.hd95) and math.isnan(row.visible_dice) and row.frame_dice == 1
    assert class_table([]) == []


# The released metric


def test_the_legacy_dice_repeats_the_released_faults_where_the_sound_one_has_none():
    alarm, silence = (np.stack([ONE, EMPTY]), np.stack([EMPTY, EMPTY])), (EMPTY[None], EMPTY[None])
    assert legacy_dice(*alarm) == 1.0 and legacy_dice(*silence) == 0.0
    assert dice(16, 0, 0) == 0.0 and iou(16, 0, 0) == 0.0
    assert dice(0, 0, 0) == 1.0 and iou(0, 0, 0) == 1.0


def test_the_legacy_dice_is_the_pooled_one_where_both_masks_have_pixels():
    predicted, truth = np.stack([ONE, SHIFTED, ONE]), np.stack([ONE, ONE, EMPTY])
    assert legacy_dice(predicted, truth) == pytest.approx(2 * 24 / (48 + 32))
    assert legacy_dice(EMPTY[None], ONE[None]) == 0.0
