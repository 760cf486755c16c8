"""Predictions as files that other programs read: COCO's JSON, a table of boxes, mask pictures."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.labelled.annotations import BOX_COLUMNS
from endofm.errors import ConfigError
from endofm.files import write_bytes
from endofm.metrics.detection import FrameBoxes

TRUTH_FILE, FOUND_FILE = "truth_coco.json", "found_coco.json"


def write_boxes(path: Path, frames: Iterable[FrameBoxes], classes: Sequence[str]) -> None:
    """The boxes told, as a CSV that a manifest's column `boxes` can name; the surest first.

    Columns `path` (the sequence), `frame`, `x1`, `y1`, `x2`, `y2` (inclusive corners), `label` and
    `score`. Raises `RunError` where it can't be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *BOX_COLUMNS, "label", "score"])
    for frame in frames:
        for number in np.argsort(-frame.scores, kind="stable"):
            left, top, right, bottom = (float(value) for value in frame.boxes[number])
            # Edges of pixels back to the pixels inside; a box of less than a pixel keeps one.
            corners = (left, top, max(right - 1, left), max(bottom - 1, top))
            label, score = classes[int(frame.classes[number])], float(frame.scores[number])
            cells = (f"{value:.2f}" for value in corners)
            writer.writerow([frame.sequence, frame.frame, *cells, label, f"{score:.6f}"])
    write_bytes(path, text.getvalue().encode())


def write_coco(folder: Path, frames: Sequence[FrameBoxes], classes: Sequence[str]) -> None:
    """`truth_coco.json` and `found_coco.json`: a data set and a list of results, as COCO has them.

    `COCO("truth_coco.json").loadRes("found_coco.json")` reads them; an image's `file_name` is its
    sequence, its `frame` the number there. Raises `ConfigError` for frames of unknown size,
    `RunError` where they can't be written.
    """
    images: list[dict[str, object]] = []
    truth: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for number, frame in enumerate(frames, start=1):
        if frame.size is None:
            raise ConfigError(
                f"{frame.sequence}, frame {frame.frame}: its size is unknown, which COCO's files "
                "need; give FrameBoxes a size."
            )
        place = {"file_name": frame.sequence, "frame": frame.frame}
        height, width = frame.size
        images.append({"id": number, **place, "height": height, "width": width})
        for box, label in zip(frame.true, frame.true_classes, strict=True):
            corners = _coco_box(box)
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": corners,
                    "area": corners[2] * corners[3],
                    "iscrowd": 0,
                }
            )
        for index in np.argsort(-frame.scores, kind="stable"):
            found.append(
                {
                    "image_id": number,
                    "category_id": int(frame.classes[index]) + 1,
                    "bbox": _coco_box(frame.boxes[index]),
                    "score": float(frame.scores[index]),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    data = {"images": images, "annotations": truth, "categories": categories}
    write_bytes(folder / TRUTH_FILE, json.dumps(data, allow_nan=False).encode())
    write_bytes(folder / FOUND_FILE, json.dumps(found, allow_nan=False).encode())


def write_masks(
    folder: Path, masks: Iterable[npt.NDArray[np.uint8]], num_classes: int, first: int = 0
) -> int:
    """One grey PNG for each mask uint8 [H, W], as a manifest's column `masks` has them.

    With two classes 0 and 255, else the class itself. Files are numbered from `first`, the frame in
    the file that the first mask is of. Returns how many there are; raises `RunError` where they
    can't be written.
    """
    count = 0
    for count, mask in enumerate(masks, start=1):
        shown = mask * np.uint8(255) if num_classes == 2 else mask
        _, encoded = cv2.imencode(".png", shown)
        write_bytes(folder / f"{first + count - 1:06}.png", encoded.tobytes())
    return count


def _coco_box(box: npt.NDArray[np.floating]) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]
