"""samples.csv: every test sample, with what is true and what was told; boxes beside it."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from endofm.files import write_text
from endofm.metrics.detection import count_boxes
from endofm.metrics.segmentation import distinct
from endofm.report.predictions import write_boxes, write_coco
from endofm.tasks.classification.task import Classification, samples_of
from endofm.tasks.detection.task import Detection, frame_boxes
from endofm.tasks.finetuning.contract import Prediction, Task, in_order
from endofm.tasks.segmentation.task import Segmentation, mask_scores


def write_samples(file: Path, task: Task, predictions: Iterable[Prediction]) -> None:
    """Write the table of a task's answers; for detection also `boxes.csv` and COCO's two files."""
    records = in_order(predictions)
    if isinstance(task, Classification):
        rows = _classified(task, records)
    elif isinstance(task, Segmentation):
        rows = _segmented(task, records)
    else:
        assert isinstance(task, Detection)
        rows = _detected(records)
        frames, _ = frame_boxes(records)
        write_boxes(file.with_name("boxes.csv"), frames, task.classes)
        write_coco(file.parent, frames, task.classes)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(file, text.getvalue())


Rows = list[Sequence[object]]


def _classified(task: Classification, records: list) -> Rows:
    classes = task.classes
    tells = ("uncertainty",) if task.network.evidence is not None else ()
    rows: Rows = [("sample", "group", "truth", "told", *(f"p/{name}" for name in classes), *tells)]
    for sample in samples_of(records)[0]:
        several = isinstance(sample.truth, tuple)
        true = sample.truth if several else (sample.truth,)
        best = max(range(len(classes)), key=lambda k, s=sample: s.probabilities[k])
        told = [k for k, p in enumerate(sample.probabilities) if p >= 0.5] if several else [best]
        names = (";".join(classes[k] for k in numbers) for numbers in (true, told))
        numbers = [*sample.probabilities, *(task.uncertainty(sample) for _ in tells)]
        rows.append((sample.name, sample.group, *names, *(f"{number:.6g}" for number in numbers)))
    return rows


def _segmented(task: Segmentation, records: list) -> Rows:
    scores, groups = mask_scores(records)
    rows: Rows = [
        ("sequence", "frame", "group", "class", "true_pixels", "told_pixels", "shared_pixels",
         "dice", "iou", "hd95")
    ]  # fmt: skip
    for one in distinct(scores):
        rows.append(
            (one.sequence, one.frame, groups[one.sequence], task.classes[one.label], one.true,
             one.predicted, one.shared, f"{one.dice:.6g}", f"{one.iou:.6g}", f"{one.hd95:.6g}")
        )  # fmt: skip
    return rows


def _detected(records: list) -> Rows:
    frames, groups = frame_boxes(records)
    rows: Rows = [
        ("sequence", "frame", "group", "true_boxes", "told_boxes", "matched", "hit", "astray",
         "best_score")
    ]  # fmt: skip
    for one in frames:
        best = f"{max(one.scores):.6g}" if len(one.scores) else ""
        counts = count_boxes(one)
        rows.append(
            (one.sequence, one.frame, groups[one.sequence], counts.true, counts.told,
             counts.matched, counts.hit, counts.astray, best)
        )  # fmt: skip
    return rows
