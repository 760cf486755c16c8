import numpy as np
import pytest

from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.mask_figures import score_masks
from endofm.metrics.segmentation import legacy_dice, score_frames

NONE = Bootstrap(resamples=0)


def sequences():
    """Three sequences of two frames of 4 x 4 pixels."""
    full, half, none = np.ones((4, 4), int), np.zeros((4, 4), int), np.zeros((4, 4), int)
    half[:2] = 1
    told = {"a": [full, half], "b": [none, half], "c": [none, none]}
    true = {"a": [half, half], "b": [half, none], "c": [none, none]}
    return {name: (np.stack(told[name]), np.stack(true[name])) for name in told}


def scores():
    return [
        one for name, (told, true) in sequences().items()
        for one in score_frames(name, [0, 1], told, true)
    ]  # fmt: skip


def test_figures_by_hand():
    groups = {"a": "p", "b": "q", "c": "q"}
    found = {n: v.value for n, v in score_masks(scores(), ("bg", "polyp"), groups, NONE).items()}
    frames = [2 * 8 / 24, 1, 0, 0, 1, 1]
    assert found["dice"] == pytest.approx(np.mean(frames))
    assert found["visible_dice"] == pytest.approx(np.mean(frames[:3]))
    assert found["pooled_dice"] == pytest.approx(2 * 16 / (24 + 16 + 8 + 8))
    assert found["sequence_dice"] == pytest.approx(np.mean([2 * 16 / 40, 0, 1]))
    assert found["sequence_iou"] == pytest.approx(np.mean([16 / 24, 0, 1]))
    released = [legacy_dice(told == 1, true == 1) for told, true in sequences().values()]
    assert found["legacy_dice"] == pytest.approx(np.mean(released))


def test_finding_nothing_is_good_by_frames_but_not_by_pixels():
    polyp, empty = np.ones((1, 4, 4), int), np.zeros((1, 4, 4), int)
    silent = [*score_frames("a", [0], empty, empty), *score_frames("b", [0], empty, polyp)]
    found = score_masks(silent, ("bg", "polyp"), {"a": "a", "b": "b"}, NONE)
    assert found["dice"].value == 0.5 and found["pooled_dice"].value == 0
    nothing = score_masks(silent[:1], ("bg", "polyp"), {"a": "a"}, NONE)
    assert nothing["pooled_dice"].value == 1


def test_means_over_classes_and_what_is_not_defined():
    groups = dict.fromkeys("abc", "p")
    found = score_masks(
        [
            one
            for name, (told, true) in sequences().items()
            for one in score_frames(name, [0, 1], told, true, (1, 2))
        ],
        ("bg", "polyp", "tool"),
        groups,
        NONE,
    )
    assert found["dice/tool"].value == 1 and found["visible_dice/tool"].value is None
    assert found["dice"].value == pytest.approx((found["dice/polyp"].value + 1) / 2)
    assert found["visible_dice"].value is None and found["visible_dice"].reason


def test_intervals_draw_groups_whole_and_repeats_count_once():
    groups = {"a": "p", "b": "q", "c": "q"}
    twice = [*scores(), *scores()]
    found = score_masks(twice, ("bg", "polyp"), groups, Bootstrap(resamples=200))["sequence_dice"]
    assert found.value == pytest.approx(np.mean([0.8, 0, 1]))
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.8))
