"""Dice, IoU and HD95 of a whole split as named figures, with intervals over groups."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from endofm.metrics.bootstrap import Bootstrap, Value, Weights, estimate
from endofm.metrics.segmentation import MaskScore, dice, distinct, sequence_table


def score_masks(
    scores: Iterable[MaskScore],
    classes: Sequence[str],
    groups: Mapping[str, str],
    bootstrap: Bootstrap | None = None,
) -> dict[str, Value]:
    """Figures by name, `dice/NAME` for a class, `dice` for the mean over classes.

    `dice` and `iou` are means over frames (1 where nothing is there and nothing found),
    `visible_dice` over the frames where the class is there, `pooled_dice` that of the pixels of all
    frames together (so that finding nothing is no merit where most are empty), `sequence_dice` and
    `sequence_iou` means over sequences of all their pixels together, `hd95` over the frames that
    have one;
    `legacy_dice` is the released code's, with its faults (see `metrics.segmentation`).
    `classes` begin with the background; `groups` tells the group of each sequence.
    """
    measure = MaskMeasure(distinct(scores), classes)
    reasons = {name: "no frame defines it" for name in ("visible_dice", "hd95")}
    of_sequences = [groups[name] for name in measure.sequences]
    return estimate(measure, of_sequences, bootstrap or Bootstrap(), reasons)


class MaskMeasure:
    """The figures as a function of how often each of `sequences` counts."""

    def __init__(self, scores: Sequence[MaskScore], classes: Sequence[str]) -> None:
        self.classes = classes
        self.sequences = sorted({score.sequence for score in scores})
        self.tables = [
            _ClassTable([score for score in scores if score.label == label])
            for label in range(1, len(classes))
        ]

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by name; NaN where one is not defined."""
        drawn = dict(zip(self.sequences, weights, strict=True))
        found: dict[str, float] = {}
        of_classes = [table.figures(drawn) for table in self.tables]
        for name in of_classes[0]:
            values = [figures[name] for figures in of_classes]
            found[name] = float(np.mean(values))
            if len(self.classes) > 2:
                found |= {f"{name}/{c}": v for c, v in zip(self.classes[1:], values, strict=True)}
        return found


class _ClassTable:
    """The scores of a class, frame by frame and sequence by sequence."""

    def __init__(self, scores: Sequence[MaskScore]) -> None:
        self.sequences = [score.sequence for score in scores]
        self.dice = np.array([score.dice for score in scores])
        self.iou = np.array([score.iou for score in scores])
        self.hd95 = np.array([score.hd95 for score in scores])
        self.shared = np.array([2.0 * score.shared for score in scores])
        self.marked = np.array([float(score.predicted + score.true) for score in scores])
        self.is_visible = np.array([score.true > 0 for score in scores])
        self.of_sequences = sequence_table(scores)
        self.legacy = _legacy(scores)

    def figures(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """`drawn` tells how often each sequence counts."""
        weights = np.array([drawn[name] for name in self.sequences])
        whole = np.array([drawn[row.sequence] for row in self.of_sequences])
        return {
            "dice": _mean(self.dice, weights),
            "iou": _mean(self.iou, weights),
            "visible_dice": _mean(self.dice, weights * self.is_visible),
            "pooled_dice": _ratio(weights @ self.shared, weights @ self.marked),
            "hd95": _mean(self.hd95, weights * np.isfinite(self.hd95)),
            "sequence_dice": _mean(np.array([row.dice for row in self.of_sequences]), whole),
            "sequence_iou": _mean(np.array([row.iou for row in self.of_sequences]), whole),
            "legacy_dice": _mean(
                np.array([self.legacy[row.sequence] for row in self.of_sequences]), whole
            ),
        }


def _mean(values: Weights, weights: Weights) -> float:
    """The weighted mean; NaN where nothing counts."""
    counts = weights > 0
    if not counts.any():
        return float("nan")
    return float((values[counts] * weights[counts]).sum() / weights[counts].sum())


def _ratio(part: float, whole: float) -> float:
    """1 where nothing is there and nothing found, as for a frame."""
    return float(part / whole) if whole > 0 else 1.0


def _legacy(scores: Sequence[MaskScore]) -> dict[str, float]:
    """`legacy_dice` of every sequence from its frames' counts, with its faults."""
    found = {}
    for sequence in {score.sequence for score in scores}:
        rows = [score for score in scores if score.sequence == sequence]
        predicted, true = sum(row.predicted for row in rows), sum(row.true for row in rows)
        if predicted and not true:
            found[sequence] = 1.0
        elif not predicted:
            found[sequence] = 0.0
        else:
            found[sequence] = dice(predicted, true, sum(row.shared for row in rows))
    return found
