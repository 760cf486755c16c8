"""How well masks are found: Dice, IoU and HD95, frame by frame and over whole sequences.

Plain label arrays in, records out. Rules for empty masks, in a frame and in a sequence alike:

- nothing there and nothing found: Dice and IoU are 1; HD95 does not exist and enters no mean;
- a false alarm, or an object missed whole: Dice and IoU are 0; HD95 does not exist either, so read
  it beside the counts of such frames.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]
IGNORED = 255
"""The label of pixels that count nowhere."""


@dataclass(frozen=True)
class MaskScore:
    """Pixels of one class in one frame: found, there, and both; and the distance of the outlines.

    `sequence`, `frame` and `label` say which it is: equal ones are the same frame counted again.
    """

    sequence: str
    frame: int
    label: int
    predicted: int
    true: int
    shared: int
    hd95: float  # pixels; NaN where one of the masks is empty

    @property
    def dice(self) -> float:
        """2 |P T| / (|P| + |T|); 1 where both are empty."""
        return dice(self.predicted, self.true, self.shared)

    @property
    def iou(self) -> float:
        """|P T| / |P or T|; 1 where both are empty."""
        return iou(self.predicted, self.true, self.shared)


@dataclass(frozen=True)
class SequenceScore:
    """A class in a sequence: Dice and IoU of its pixels together, HD95 a mean over frames."""

    sequence: str
    label: int
    frames: int
    dice: float
    iou: float
    hd95: float  # NaN where no frame has one


@dataclass(frozen=True)
class ClassScore:
    """A class over all frames and sequences; a mean of nothing is NaN."""

    label: int
    frames: int
    frame_dice: float
    frame_iou: float
    visible_frames: int
    """Frames where the class is there."""
    visible_dice: float
    """Mean over those, so that easy empty frames don't lift it."""
    missed_frames: int
    """Frames where it is there and nothing is found."""
    false_alarm_frames: int
    """Frames where it isn't and something is found."""
    hd95: float
    hd95_frames: int
    """Frames the mean of HD95 is over."""
    sequences: int
    sequence_dice: float
    sequence_iou: float


def dice(predicted: int, true: int, shared: int) -> float:
    """Dice from pixel counts; 1 where nothing is there and nothing found."""
    return 2 * shared / (predicted + true) if predicted + true else 1.0


def iou(predicted: int, true: int, shared: int) -> float:
    """Intersection over union from pixel counts; 1 where nothing is there and nothing found."""
    union = predicted + true - shared
    return shared / union if union else 1.0


def hausdorff95(one: Mask, two: Mask) -> float:
    """How far two outlines lie apart, in pixels: the 95th percentile; NaN if a mask is empty.

    Over the distances of every outline pixel of each mask [H, W] to the nearest of the other, both
    ways together. The outline are the pixels with one of the four neighbours outside the mask;
    beyond the frame is outside.
    """
    if not (one.any() and two.any()):
        return math.nan
    either = one | two
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    outlines = [_outline(mask[window]) for mask in (one, two)]
    distances = [_distance_to(outlines[1])[outlines[0]], _distance_to(outlines[0])[outlines[1]]]
    return float(np.percentile(np.concatenate(distances), 95))


def score_frames(
    sequence: str,
    frames: Sequence[int],
    predicted: Labels,
    truth: Labels,
    labels: Sequence[int] = (1,),
    ignore_index: int = IGNORED,
) -> list[MaskScore]:
    """A record for every frame and class of `predicted` and `truth` [T, H, W], numbered `frames`.

    Pixels that `truth` marks with `ignore_index` count nowhere. Raises `ConfigError` for arrays of
    unequal shape.
    """
    if predicted.shape != truth.shape or predicted.shape[:1] != (len(frames),):
        raise ConfigError(
            f"Sequence {sequence}: masks predicted {list(predicted.shape)} and true "
            f"{list(truth.shape)} for {len(frames)} frames; give [T, H, W] of one size for all."
        )
    records = []
    for frame, found, there in zip(frames, predicted, truth, strict=True):
        is_valid = there != ignore_index
        for label in labels:
            one, two = (found == label) & is_valid, (there == label) & is_valid
            records.append(
                MaskScore(
                    sequence,
                    frame,
                    label,
                    predicted=int(one.sum()),
                    true=int(two.sum()),
                    shared=int((one & two).sum()),
                    hd95=hausdorff95(one, two),
                )
            )
    return records


def distinct(scores: Iterable[MaskScore]) -> list[MaskScore]:
    """Every frame and class once, the first that came: samplers of several processes repeat some.

    Sorted, so that the tables don't depend on batches, processes or their order.
    """
    first: dict[tuple[str, int, int], MaskScore] = {}
    for score in scores:
        first.setdefault((score.sequence, score.frame, score.label), score)
    return [first[key] for key in sorted(first)]


def sequence_table(scores: Iterable[MaskScore]) -> list[SequenceScore]:
    """A row for every sequence and class, from the records of all batches and processes."""
    groups: dict[tuple[str, int], list[MaskScore]] = {}
    for score in distinct(scores):
        groups.setdefault((score.sequence, score.label), []).append(score)
    return [
        SequenceScore(
            sequence=sequence,
            label=label,
            frames=len(group),
            dice=dice(*_pixels(group)),
            iou=iou(*_pixels(group)),
            hd95=_mean(_known(group)),
        )
        for (sequence, label), group in groups.items()
    ]


def class_table(scores: Iterable[MaskScore]) -> list[ClassScore]:
    """A row for every class, from the records of all batches and processes."""
    every = distinct(scores)
    of_sequences = sequence_table(every)
    rows = []
    for label in sorted({score.label for score in every}):
        frames = [score for score in every if score.label == label]
        sequences = [score for score in of_sequences if score.label == label]
        visible = [score for score in frames if score.true]
        rows.append(
            ClassScore(
                label=label,
                frames=len(frames),
                frame_dice=_mean([score.dice for score in frames]),
                frame_iou=_mean([score.iou for score in frames]),
                visible_frames=len(visible),
                visible_dice=_mean([score.dice for score in visible]),
                missed_frames=sum(not score.predicted for score in visible),
                false_alarm_frames=sum(s.predicted > 0 and not s.true for s in frames),
                hd95=_mean(_known(frames)),
                hd95_frames=len(_known(frames)),
                sequences=len(sequences),
                sequence_dice=_mean([score.dice for score in sequences]),
                sequence_iou=_mean([score.iou for score in sequences]),
            )
        )
    return rows


def legacy_dice(predicted: Mask, truth: Mask) -> float:
    """Dice of a sequence [T, H, W] as Endo-FM's released evaluation has it, for comparison only.

    It is Dice of the sequence's pixels together wherever both masks have some, but with two faults:
    a false alarm on an empty mask gives 1, so that painting everything is rewarded; and where both
    are empty, and all is right, it gives 0. The released number is the mean over the sequences, of
    the best epoch on the test list.
    """
    if predicted.any() and not truth.any():
        return 1.0
    if not predicted.any():
        return 0.0
    return dice(int(predicted.sum()), int(truth.sum()), int((predicted & truth).sum()))


def _outline(mask: Mask) -> Mask:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    pixels = mask.astype(np.uint8)
    inner = cv2.erode(pixels, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline: Mask = pixels > inner
    return outline


def _distance_to(outline: Mask) -> npt.NDArray[np.float64]:
    """From every pixel to the nearest of the outline, exact."""
    background = (~outline).astype(np.uint8)
    distance: npt.NDArray[np.float64] = cv2.distanceTransform(
        background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ).astype(np.float64)
    return distance


def _pixels(group: Sequence[MaskScore]) -> tuple[int, int, int]:
    return (
        sum(score.predicted for score in group),
        sum(score.true for score in group),
        sum(score.shared for score in group),
    )


def _known(group: Sequence[MaskScore]) -> list[float]:
    return [score.hd95 for score in group if not math.isnan(score.hd95)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
