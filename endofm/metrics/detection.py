"""How well boxes are found: average precision as COCO has it, and counts at one threshold.

- `map_50`, `map_50_95`: COCO's average precision at IoU 0.5, and its mean over IoU 0.5 to 0.95;
  means over the classes that have boxes. `ap_50/CLASS` is one class's.
- `box_precision`, `box_recall`, `box_f1`: boxes that score at least the threshold, surest first,
  each matched to the free true box of its class it overlaps most, if by at least the wanted IoU.
- `center_precision`, `center_recall`, `center_f1`: a true box is found if the centre of a told one
  lies in it, however many do; a told box is wrong if its centre lies in no true box (Bernal et al.,
  IEEE TMI 2017).
- `legacy_frame_presence_f1`: as Endo-FM's released evaluation has it, for comparison only. A frame
  counts as found if any box scores above 0.5, wherever it lies: a box in the wrong place is as good
  as one on the polyp, and ten boxes are as good as one. It judges whether frames show a polyp, not
  where.

Frames without a box add nothing to a recall, and their false boxes lower every precision. Where
there is neither a true nor a told box, the figures do not exist.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError
from endofm.metrics.average_precision import AveragePrecision, FrameOfBoxes
from endofm.metrics.bootstrap import Bootstrap, Value, Weights, estimate

LEGACY_SCORE = 0.5
TOLERANCE_PIXELS = 0.5
"""How far rounding may push a box over the frame's edge."""

Boxes = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class FrameBoxes:
    """What is in a frame and what was told; corners x1, y1, x2, y2 at the edges of pixels."""

    sequence: str
    frame: int
    """Equal sequence and frame are the same frame counted again."""
    true: Boxes  # [N, 4]
    true_classes: Numbers  # [N]
    boxes: Boxes  # [n, 4]
    scores: npt.NDArray[np.floating]  # [n]
    classes: Numbers  # [n]
    size: tuple[int, int] | None = None
    """Height and width; boxes are held against them where they are known."""


@dataclass(frozen=True)
class FrameCounts:
    """Boxes of a frame at the thresholds."""

    sequence: str
    frame: int
    true: int
    told: int
    matched: int
    """Told boxes that are a true one."""
    hit: int
    """True boxes that a told one has its centre in."""
    astray: int
    """Told boxes whose centre is in no true one."""
    is_present: bool
    """Whether any box scores above 0.5."""


@dataclass(frozen=True)
class SequenceScore:
    """Figures of one sequence; `None` where one is not defined."""

    sequence: str
    frames: int
    true: int
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class DetectionScores:
    """What `score_detection` finds."""

    values: Mapping[str, Value]
    sequences: tuple[SequenceScore, ...]
    score_threshold: float
    iou_threshold: float
    num_frames: int
    num_boxes: int

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "values": {name: value.as_dict() for name, value in self.values.items()},
            "sequences": [vars(one) | {"values": dict(one.values)} for one in self.sequences],
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "num_frames": self.num_frames,
            "num_boxes": self.num_boxes,
        }


def score_detection(
    frames: Iterable[FrameBoxes],
    classes: Sequence[str],
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    bootstrap: Bootstrap | None = None,
    groups: Mapping[str, str] | None = None,
) -> DetectionScores:
    """All figures of the frames of all batches and processes, each frame counted once.

    `groups` names the group of each sequence, which a bootstrap draws whole; by default each
    sequence is its own. Raises `ConfigError`, naming the frame, for boxes that can't be.
    """
    every = distinct(frames)
    measure = measure_of(every, classes, score_threshold, iou_threshold)
    of_group = [(groups or {}).get(frame.sequence, frame.sequence) for frame in every]
    values = estimate(measure, of_group, bootstrap or Bootstrap(), measure.reasons())
    return DetectionScores(
        values,
        tuple(sequence_table(every, measure)),
        score_threshold,
        iou_threshold,
        len(every),
        sum(len(frame.true) for frame in every),
    )


def distinct(frames: Iterable[FrameBoxes]) -> list[FrameBoxes]:
    """Every frame once, the first that came, sorted: samplers of several processes repeat some."""
    first: dict[tuple[str, int], FrameBoxes] = {}
    for frame in frames:
        first.setdefault((frame.sequence, frame.frame), frame)
    return [first[key] for key in sorted(first)]


def measure_of(
    frames: Sequence[FrameBoxes],
    classes: Sequence[str],
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> "DetectionMeasure":
    """The figures as a function of how often each frame counts."""
    if not frames:
        raise ConfigError("There are no frames to score; the split has none.")
    for frame in frames:
        _check(frame, len(classes))
    counts = [count_boxes(frame, score_threshold, iou_threshold) for frame in frames]
    precision = AveragePrecision(
        [FrameOfBoxes(f.true, f.true_classes, f.boxes, f.scores, f.classes) for f in frames],
        len(classes),
    )
    return DetectionMeasure(counts, classes, precision)


class CountMeasure:
    """The figures that follow from counts of boxes."""

    def __init__(self, counts: Sequence[FrameCounts]) -> None:
        names = ("true", "told", "matched", "hit", "astray")
        self.counts = np.array([[getattr(one, name) for name in names] for one in counts], float)
        has_box = np.array([one.true > 0 for one in counts])
        is_present = np.array([one.is_present for one in counts])
        self.presence = np.stack([has_box & is_present, has_box, is_present], 1).astype(float)

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by name; NaN where one is not defined."""
        true, told, matched, hit, astray = weights @ self.counts
        both, has_box, is_present = weights @ self.presence
        return {
            "box_precision": _ratio(matched, told),
            "box_recall": _ratio(matched, true),
            "box_f1": _ratio(2 * matched, true + told),
            "center_precision": _ratio(hit, hit + astray),
            "center_recall": _ratio(hit, true),
            "center_f1": _ratio(2 * hit, hit + astray + true),
            "legacy_frame_presence_f1": _ratio(2 * both, has_box + is_present),
        }

    def reasons(self) -> dict[str, str]:
        """Why figures are not defined, by name."""
        true, told, *_ = self.counts.sum(0)
        nothing_true = "" if true else "no frame has a box"
        nothing_told = "" if told else "no box is told at the threshold"
        neither = " and ".join(filter(None, (nothing_true, nothing_told)))
        return {
            "box_precision": nothing_told,
            "box_recall": nothing_true,
            "box_f1": neither,
            "center_precision": nothing_told,
            "center_recall": nothing_true,
            "center_f1": neither,
            "legacy_frame_presence_f1": neither,
        }


class DetectionMeasure(CountMeasure):
    """Average precision, and the figures that follow from counts."""

    def __init__(
        self, counts: Sequence[FrameCounts], classes: Sequence[str], precision: AveragePrecision
    ) -> None:
        super().__init__(counts)
        self.classes, self.precision = classes, precision

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by name; NaN where one is not defined."""
        table = self.precision(weights)  # [10, K]
        has_boxes = np.isfinite(table[0])
        there = table[:, has_boxes]
        found = {
            "map_50": float(there[0].mean()) if has_boxes.any() else np.nan,
            "map_50_95": float(there.mean()) if has_boxes.any() else np.nan,
        }
        found |= super().__call__(weights)
        if len(self.classes) > 1:
            pairs = zip(self.classes, table[0], strict=True)
            found |= {f"ap_50/{name}": float(value) for name, value in pairs}
        return found

    def reasons(self) -> dict[str, str]:
        """Why figures are not defined, by name."""
        why = "no frame has a box"
        of_classes = {f"ap_50/{name}": f"{why} of {name}" for name in self.classes}
        return {"map_50": why, "map_50_95": why} | of_classes | super().reasons()


def sequence_table(frames: Sequence[FrameBoxes], measure: DetectionMeasure) -> list[SequenceScore]:
    """A row for every sequence; `measure` is of the same frames."""
    names = np.array([frame.sequence for frame in frames])
    table = []
    for sequence in sorted(set(names)):
        weights = (names == sequence).astype(float)
        values = {
            name: float(value) if np.isfinite(value) else None
            for name, value in measure(weights).items()
            if "/" not in name
        }
        true = sum(len(frame.true) for frame in frames if frame.sequence == sequence)
        table.append(SequenceScore(str(sequence), int(weights.sum()), true, values))
    return table


def count_boxes(
    frame: FrameBoxes, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> FrameCounts:
    """The boxes of a frame that score at least the threshold, counted."""
    is_told = frame.scores >= score_threshold
    order = np.argsort(-frame.scores[is_told], kind="stable")
    boxes, classes = frame.boxes[is_told][order], frame.classes[is_told][order]
    same = classes[:, None] == frame.true_classes[None, :]
    overlaps = np.where(same, box_iou(boxes, frame.true), -1.0)
    free = np.ones(len(frame.true), bool)
    matched = 0
    for row in overlaps:
        candidates = np.where(free, row, -1.0)
        if len(candidates) and candidates.max() >= iou_threshold:
            free[candidates.argmax()] = False
            matched += 1
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centers[:, None] > frame.true[None, :, :2]) & (
        centers[:, None] < frame.true[None, :, 2:]
    )
    hits = inside.all(axis=-1) & same
    return FrameCounts(
        frame.sequence,
        frame.frame,
        true=len(frame.true),
        told=len(boxes),
        matched=matched,
        hit=int(hits.any(axis=0).sum()),
        astray=int((~hits.any(axis=1)).sum()),
        is_present=bool((frame.scores > LEGACY_SCORE).any()),
    )


def box_iou(one: Boxes, two: Boxes) -> npt.NDArray[np.float64]:  # [N, 4], [M, 4] -> [N, M]
    """Intersection over union of every pair of boxes."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (one, two)]
    iou: npt.NDArray[np.float64] = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    return iou


def _check(frame: FrameBoxes, num_classes: int) -> None:
    where = f"{frame.sequence}, frame {frame.frame}"
    told = ("told", frame.boxes, frame.classes, np.isfinite(frame.scores))
    for kind, boxes, classes, fine in (
        ("true", frame.true, frame.true_classes, np.ones(len(frame.true), bool)),
        told,
    ):
        if boxes.shape != (len(classes), 4) or len(fine) != len(classes):
            raise ConfigError(
                f"{where}: {kind} boxes {list(boxes.shape)} with {len(classes)} classes and "
                f"{len(fine)} scores; give [N, 4] and N of each."
            )
        is_fine = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & fine
        if frame.size is not None:
            limit = np.array(frame.size[::-1]) + TOLERANCE_PIXELS
            is_fine &= (boxes[:, :2] >= -TOLERANCE_PIXELS).all(axis=1)
            is_fine &= (boxes[:, 2:] <= limit).all(axis=1)
        for number in np.flatnonzero(~is_fine):
            corners = ", ".join(f"{value:g}" for value in boxes[number])
            within = f" of {frame.size[1]}x{frame.size[0]} pixels" if frame.size else ""
            raise ConfigError(
                f"{where}: the {kind} box x1, y1, x2, y2 = {corners} is inverted, outside the "
                f"frame{within}, or without a score; x1 < x2 and y1 < y2 within it."
            )
        for label in classes[(classes < 0) | (classes >= num_classes)]:
            raise ConfigError(
                f"{where}: a {kind} box has the class {label}, but there are {num_classes}, 0 to "
                f"{num_classes - 1}."
            )


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below > 0 else np.nan
