import contextlib
import io
import json
import random

import numpy as np
import pytest

from endofm.errors import ConfigError
from endofm.metrics.average_precision import AveragePrecision, FrameOfBoxes, coco_evaluation
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.detection import (
    FrameBoxes,
    box_iou,
    count_boxes,
    distinct,
    score_detection,
)

NONE = Bootstrap(0)


def frame(true=(), told=(), scores=None, sequence="a", number=0, labels=None, told_labels=None):
    scores = [0.9] * len(told) if scores is None else scores
    return FrameBoxes(
        sequence,
        number,
        np.array(true, float).reshape(-1, 4),
        np.array(labels or [0] * len(true), int),
        np.array(told, float).reshape(-1, 4),
        np.array(scores, float),
        np.array(told_labels or [0] * len(told), int),
        (100, 120),
    )


def values(frames, classes=("polyp",), **options):
    found = score_detection(frames, classes, bootstrap=NONE, **options).values
    return {name: value.value for name, value in found.items()}


ONE = (10, 10, 30, 30)
HALF = (10, 10, 30, 20)  # IoU 1/2 with ONE, its centre inside
BESIDE = (24, 10, 50, 30)  # IoU below 1/2, centre outside
FAR = (60, 60, 80, 80)


# By hand


def test_overlaps_are_worked_out_by_hand():
    found = box_iou(np.array([ONE, FAR], float), np.array([ONE, HALF, BESIDE], float))
    expected = [[1, 0.5, 6 * 20 / (20 * 20 + 26 * 20 - 6 * 20)], [0, 0, 0]]
    np.testing.assert_allclose(found, expected)


def test_boxes_are_matched_and_counted_by_hand():
    counts = count_boxes(frame([ONE, FAR], [ONE, HALF, BESIDE], [0.9, 0.8, 0.7]))
    # HALF overlaps ONE enough, but ONE is taken; its centre still lies in ONE.
    assert (counts.true, counts.told, counts.matched) == (2, 3, 1)
    assert (counts.hit, counts.astray) == (1, 1)
    found = values([frame([ONE, FAR], [ONE, HALF, BESIDE], [0.9, 0.8, 0.7])])
    assert (found["box_precision"], found["box_recall"], found["box_f1"]) == (1 / 3, 1 / 2, 2 / 5)
    assert (found["center_precision"], found["center_recall"]) == (1 / 2, 1 / 2)


def test_the_surest_box_is_matched_first_to_what_it_overlaps_most():
    near = (12, 10, 32, 30)
    counts = count_boxes(frame([ONE, near], [near, ONE], [0.6, 0.9]))
    assert counts.matched == 2
    counts = count_boxes(frame([ONE], [HALF, ONE], [0.9, 0.6]))
    assert counts.matched == 1 and counts.told == 2


def test_thresholds_are_those_that_are_asked_for():
    given = [frame([ONE], [HALF], [0.5])]
    assert values(given)["box_f1"] == 1  # at the threshold counts
    assert values(given, iou_threshold=0.51)["box_f1"] == 0
    assert values(given, score_threshold=0.51)["box_f1"] == 0
    assert values(given, score_threshold=0.51)["box_precision"] is None


def test_average_precision_is_worked_out_by_hand():
    # Surest first: right, wrong, right, of two true boxes: precision 1 to recall 1/2, then 2/3.
    given = [frame([ONE], [ONE, FAR], [0.9, 0.8]), frame([ONE], [ONE], [0.7], number=1)]
    assert values(given)["map_50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    # IoU of 1/2 counts at 0.5 alone of the ten thresholds.
    loose = [frame([ONE], [HALF])]
    assert (values(loose)["map_50"], values(loose)["map_50_95"]) == (1, pytest.approx(0.1))


def test_classes_are_told_apart_and_averaged():
    given = [
        frame([ONE, FAR], [ONE, FAR], labels=[0, 1], told_labels=[0, 0]),
        frame([ONE], [ONE], number=1, labels=[1], told_labels=[1]),
    ]
    found = values(given, classes=("polyp", "tool", "stool"))
    assert found["ap_50/polyp"] == 1 and found["ap_50/tool"] == pytest.approx(51 / 101)
    assert found["ap_50/stool"] is None
    assert found["map_50"] == pytest.approx((1 + 51 / 101) / 2)
    assert found["box_f1"] == pytest.approx(2 * 2 / 6)


# Empty frames


def test_empty_frames_are_right_where_nothing_is_told_and_lower_precision_otherwise():
    right, alarm = frame([ONE], [ONE]), frame([], [FAR], [0.95], number=1)
    silent = [frame([], [], number=number) for number in range(2, 9)]
    assert values([right, *silent]) == values([right])
    found = values([right, alarm, *silent])
    assert (found["box_precision"], found["box_recall"]) == (1 / 2, 1)
    assert found["map_50"] == pytest.approx(1 / 2)  # the false alarm is surer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([frame([], [])], {"map_50": None, "box_f1": None, "center_f1": None}),
        ([frame([], [FAR])], {"map_50": None, "box_f1": 0, "box_recall": None, "center_f1": 0}),
        ([frame([ONE], [])], {"map_50": 0, "box_f1": 0, "box_precision": None, "center_f1": 0}),
    ],
)
def test_no_boxes_at_all_and_none_told_are_no_numbers_or_zeros(given, expected):
    found = values(given)
    assert {name: found[name] for name in expected} == expected


def test_what_is_not_defined_has_a_reason():
    found = score_detection([frame([], [])], ("polyp",), bootstrap=NONE).values
    assert found["map_50"].reason == "no frame has a box"
    assert found["box_f1"].reason == "no frame has a box and no box is told at the threshold"
    json.dumps(score_detection([frame([], [])], ("polyp",)).as_dict(), allow_nan=False)


# Against COCO's own arithmetic


def random_frames(num, num_classes, seed=0, ties=True):
    rng = np.random.default_rng(seed)

    def boxes(count):
        corners = rng.uniform(0, 60, (count, 2))
        return np.concatenate([corners, corners + rng.uniform(15, 40, (count, 2))], axis=1)

    frames = []
    for _ in range(num):
        true = boxes(rng.integers(0, 4))
        labels = rng.integers(0, num_classes, len(true))
        is_found = rng.random(len(true)) < 0.8
        alarms = boxes(rng.integers(0, 3))
        told = np.concatenate([true[is_found] + rng.normal(0, 2, (is_found.sum(), 4)), alarms])
        told_labels = np.append(labels[is_found], rng.integers(0, num_classes, len(alarms)))
        scores = rng.random(len(told))
        frames.append(
            FrameOfBoxes(true, labels, told, scores.round(1) if ties else scores, told_labels)
        )
    return frames


def coco_table(frames, num_classes):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(frames, num_classes)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # [10, 101, K], all areas, 100 boxes
    return precision.mean(axis=1), evaluation.stats


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_coco_s(seed):
    frames = random_frames(40, 3, seed)
    table, stats = coco_table(frames, 3)
    ours = AveragePrecision(frames, 3)(np.ones(40))
    np.testing.assert_allclose(ours, table, atol=1e-9)
    assert ours.mean() == pytest.approx(stats[0]) and ours[0].mean() == pytest.approx(stats[1])


def test_weights_are_frames_that_come_more_often():
    frames = random_frames(30, 2, ties=False)
    counts = np.random.default_rng(1).integers(0, 4, 30)
    repeated = [frame for frame, count in zip(frames, counts, strict=True) for _ in range(count)]
    ours = AveragePrecision(frames, 2)(counts.astype(float))
    np.testing.assert_allclose(ours, coco_table(repeated, 2)[0], atol=1e-9)


# The released metric


def test_the_legacy_f1_does_not_mind_where_a_box_lies():
    wrong_place = [frame([ONE], [FAR], [0.51]), frame([], [], number=1)]
    found = values(wrong_place)
    assert found["legacy_frame_presence_f1"] == 1
    assert found["box_f1"] == found["center_f1"] == found["map_50"] == 0
    many = values([frame([ONE], [FAR] * 10), frame([], [], number=1)])
    assert many["legacy_frame_presence_f1"] == 1
    three = [
        frame([ONE], [ONE], [0.5]),  # not above 0.5: missed
        frame([], [FAR], [0.6], number=1),  # a false alarm
        frame([ONE], [ONE], [0.9], number=2),
    ]
    assert values(three)["legacy_frame_presence_f1"] == pytest.approx(0.5)


# Sequences, intervals, processes


def test_sequences_are_scored_apart():
    given = [frame([ONE], [ONE], number=n) for n in range(3)]
    given += [frame([ONE], [], sequence="b"), frame([], [], sequence="c")]
    one, two, three = score_detection(given, ("polyp",), bootstrap=NONE).sequences
    assert (one.sequence, one.frames, one.true) == ("a", 3, 3)
    assert one.values["map_50"] == one.values["box_f1"] == 1
    assert (two.sequence, two.values["box_recall"], two.values["map_50"]) == ("b", 0, 0)
    assert three.values["box_f1"] is None


def test_intervals_are_over_the_groups_of_sequences():
    given = [
        frame([ONE], [ONE if n % 2 else FAR], sequence=str(n), number=f)
        for n in range(8) for f in range(4)
    ]  # fmt: skip
    wide = score_detection(given, ("polyp",), bootstrap=Bootstrap(200)).values["box_recall"]
    assert wide.value == 0.5 and wide.low < 0.3 and wide.high > 0.7
    halves = {str(n): str(n % 2) for n in range(8)}
    two = score_detection(given, ("polyp",), bootstrap=Bootstrap(200), groups=halves)
    assert (two.values["box_recall"].low, two.values["box_recall"].high) == (0, 1)


def test_frames_that_came_twice_count_once_and_order_does_not_matter():
    given = [frame([ONE], [ONE, FAR], number=n) for n in range(5)]
    shuffled = [*given, *given[:3]]
    random.Random(0).shuffle(shuffled)
    assert distinct(shuffled) == given
    assert (
        score_detection(shuffled, ("polyp",)).as_dict()
        == score_detection(given, ("polyp",)).as_dict()
    )


# Bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (frame([(30, 10, 10, 30)], sequence="v.mp4", number=7), "v.mp4, frame 7: the true box x1"),
        (frame([ONE], [(10, 30, 30, 10)]), "the told box x1, y1, x2, y2 = 10, 30, 30, 10 is inv"),
        (frame([(10, 10, 130, 30)]), "outside the frame of 120x100 pixels"),
        (frame([ONE], [ONE], [float("nan")]), "without a score"),
        (frame([ONE], labels=[1]), "a true box has the class 1, but there are 1"),
        (frame([ONE], [ONE], scores=[0.5, 0.5]), "1 classes and 2 scores"),
    ],
)
def test_boxes_that_cannot_be_are_refused_by_sequence_and_frame(wrong, message):
    with pytest.raises(ConfigError, match=message):
        score_detection([wrong], ("polyp",))


def test_no_frames_are_refused():
    with pytest.raises(ConfigError, match="no frames"):
        score_detection([], ("polyp",))
