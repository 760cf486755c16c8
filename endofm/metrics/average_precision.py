"""COCO's average precision, as a function of how often each frame counts.

pycocotools decides frame by frame which told box is which true one. From there on it is COCO's
arithmetic with weights, so that thousands of resamples need no new matching; with equal weights it
is what `COCOeval.accumulate` gives.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Floats = npt.NDArray[np.float64]
MAX_TOLD = 100
"""Told boxes that count in a frame, the surest of each class, as in COCO."""
RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class FrameOfBoxes:
    """Boxes [N, 4] as x1, y1, x2, y2, and their classes; of those told also the scores."""

    true: npt.NDArray[np.floating]
    true_classes: npt.NDArray[np.integer]
    told: npt.NDArray[np.floating]
    scores: npt.NDArray[np.floating]
    told_classes: npt.NDArray[np.integer]


@dataclass(frozen=True)
class _Matched:
    """The told boxes of one class in all frames, surest first."""

    frames: npt.NDArray[np.int64]  # [n], which frame each is in
    is_right: npt.NDArray[np.bool_]  # [10, n], at each threshold of IoU
    true: Floats  # [F], true boxes in each frame


class AveragePrecision:
    """Matched once, then asked for any weights [F] of the frames."""

    def __init__(self, frames: Sequence[FrameOfBoxes], num_classes: int) -> None:
        found = _evaluate(frames, num_classes)
        num = len(frames)
        self.classes = [
            _matched(found[label * num : (label + 1) * num], num) for label in range(num_classes)
        ]

    def __call__(self, weights: Floats) -> Floats:
        """[10, K]: at each IoU from 0.5 to 0.95, of each class; NaN for a class without a box."""
        columns = [_average_precision(matched, weights) for matched in self.classes]
        return np.stack(columns, axis=1)


def _average_precision(matched: _Matched, weights: Floats) -> Floats:  # [10]
    """Precision at 101 recalls, each the best at that recall or a higher one, averaged."""
    num_true = float(matched.true @ weights)
    if num_true <= 0:
        return np.full(len(THRESHOLDS), np.nan)
    counts = weights[matched.frames]
    told = np.cumsum(counts)
    rows = []
    for is_right in matched.is_right:
        right = np.cumsum(counts * is_right)
        precision = np.divide(right, told, out=np.zeros_like(right), where=told > 0)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(right / num_true, RECALLS, side="left")
        rows.append(np.append(envelope, 0.0)[places].mean())
    return np.array(rows)


def _matched(images: Sequence[dict[str, Any] | None], num_frames: int) -> _Matched:
    """One class's images as COCOeval judged them; `None` has neither true nor told boxes."""
    true = np.zeros(num_frames)
    scores, frames, right = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros((10, 0), bool)]
    for number, image in enumerate(images):
        if image is not None:
            true[number] = len(image["gtIds"])
            scores.append(np.asarray(image["dtScores"], np.float64))
            frames.append(np.full(len(image["dtScores"]), number, np.int64))
            right.append(np.asarray(image["dtMatches"]).reshape(10, -1) > 0)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return _Matched(np.concatenate(frames)[order], np.concatenate(right, axis=1)[:, order], true)


def _evaluate(frames: Sequence[FrameOfBoxes], num_classes: int) -> list[dict[str, Any] | None]:
    """COCOeval's judgement of every class and frame, class by class."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = coco_evaluation(frames, num_classes)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_TOLD]
        evaluation.evaluate()
    return list(evaluation.evalImgs)


def coco_evaluation(frames: Sequence[FrameOfBoxes], num_classes: int) -> COCOeval:
    """The frames as COCO's evaluator wants them."""
    true: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for number, frame in enumerate(frames):
        for box, label in zip(frame.true, frame.true_classes, strict=True):
            true.append(_annotation(number, len(true), box, int(label)))
        for box, label, score in zip(frame.told, frame.told_classes, frame.scores, strict=True):
            told.append(_annotation(number, len(told), box, int(label)) | {"score": float(score)})
    images = [{"id": number} for number in range(len(frames))]
    categories = [{"id": number} for number in range(num_classes)]
    return COCOeval(*(_coco(images, categories, boxes) for boxes in (true, told)), iouType="bbox")


def _annotation(
    image: int, number: int, box: npt.NDArray[np.floating], label: int
) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in box)
    return {
        "id": number + 1,  # 0 means "unmatched" to COCOeval
        "image_id": image,
        "category_id": label,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }


def _coco(images: list[Any], categories: list[Any], annotations: list[Any]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
