"""`python -m finetune.show RESULT`: the worst and the best test cases as pictures and films."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.text import Text

from endofm.data.labelled.clips import EvaluationClips, Piece, evaluation_rows, pieces_of
from endofm.data.labelled.samples import CLASSIFICATION, LabelledBatch, join
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.video import open_video
from endofm.errors import ManifestError, RunError
from endofm.program import read_command, told_faults
from endofm.report.cases import Case, Shown, case_sheet, rank_cases, result_page
from endofm.report.drawing import draw_boxes, draw_classes, draw_mask, titled
from endofm.report.film import film
from endofm.report.predictions import write_masks
from endofm.report.result_folders import PROBABILITY, SeedResult, read_result
from endofm.report.views import Image, write_png
from endofm.tasks.detection.task import Detection
from endofm.tasks.finetuning.contract import Task
from endofm.tasks.finetuning.finetuned import load_finetuned
from endofm.tasks.segmentation.task import Segmentation

from .evaluate import model_folder

SIDE = 320
"""Pixels a frame is drawn in."""
FILM_SIDE = 512
SCORE = 0.5
"""Boxes that score less are not drawn."""
FOLDER_FPS = 8
"""Frames of a folder are shown this fast, since nothing tells its rate."""


@dataclass(frozen=True)
class Show:
    """Draw a result's worst and best test cases, and write its page (report.html)."""

    result: tyro.conf.Positional[Path]
    """The folder of one seed, as `python -m finetune` or `finetune.evaluate --out` leaves it."""
    model: Path | None = None
    """Its fine-tuned model; by default the `model` folder in the result."""
    manifest: Path | None = None
    """The clips it was tested on; by default those of its configuration."""
    root: Path | None = None
    """Folder that the manifest's paths start from; by default as configured, else its own."""
    cases: int = 6
    """Worst and best cases to draw, of each so many."""
    films: int = 0
    """Write films of so many whole videos, those of the worst cases first."""
    masks: bool = False
    """Segmentation: write the told masks of those videos as PNGs, too."""


@dataclass(frozen=True)
class Drawn:
    """A frame of a video, drawn; of a segmentation also the told mask uint8 [H, W]."""

    frame: int
    picture: Image
    mask: Image | None = None


@dataclass(frozen=True)
class Material:
    """A result with the rows it was tested on, and the model unless a classification is shown."""

    result: SeedResult
    rows: Sequence[Segment]
    task: Task | None

    def name(self, row: Segment) -> str:
        """What the result calls the sample that a row belongs to."""
        unit = "files" if self.task is not None else str(self.result.told["unit"])
        return {"groups": row.group, "files": row.path}.get(unit, row.name)

    def rows_of(self, case: Case) -> list[Segment]:
        """The rows of a case; raises `ManifestError` where there is none."""
        found = [row for row in self.rows if case.sequence == self.name(row)]
        if not found:
            raise ManifestError(
                f"The test sample {case.sequence} is not in the manifest; give the one the result "
                "was tested on (--manifest)."
            )
        return sorted(found, key=lambda row: (row.path, row.start_frame))

    def tested(self, case: Case) -> set[int]:
        """The frames of a case's video that were judged."""
        rows = self.result.rows
        return {int(row["frame"]) for row in rows if row.get("sequence") == case.sequence}


def show(command: Show) -> Path:
    """Draw, and write the page; returns its path."""
    material = gather(command)
    worst, best = rank_cases(material.result, command.cases)
    shown = []
    for name, cases in (("worst", worst), ("best", best)):
        if cases:
            sheet = case_sheet([draw_case(material, case) for case in cases])
            write_png(command.result / f"{name}.png", sheet)
            shown.append(Shown(f"{name.capitalize()} cases", cases, sheet))
    videos = {material.rows_of(case)[0].path: case for case in reversed([*worst, *best[::-1]])}
    for path, case in list(reversed(videos.items()))[: command.films]:
        write_film(command.result / "films" / f"{path}.mp4", material, case)
        if command.masks and isinstance(material.task, Segmentation):
            drawn = (one.mask for one in draw_video(material, case) if one.mask is not None)
            write_masks(command.result / "masks" / path, drawn, len(material.result.classes))
    return result_page(command.result / "report.html", material.result, shown)


def gather(command: Show) -> Material:
    """Read the result, the rows and the model; raises `RunError` where one of them is missing."""
    read = read_result(command.result)
    if len(read.seeds) > 1 or read.seeds[0].folder != command.result:
        raise RunError(
            f"{command.result} has results of several seeds; give one: "
            f"{', '.join(str(seed.folder) for seed in read.seeds)}."
        )
    (result,) = read.seeds
    data = result.told.get("config", {}).get("data", {})
    manifests = [command.manifest] if command.manifest else map(Path, data.get("manifests", ()))
    root = command.root or (Path(data["root"]) if data.get("root") else None)
    rows = [row for manifest in manifests for row in read_manifest(manifest, root)]
    if not rows:
        raise RunError(f"{command.result} doesn't tell its manifest; give it with --manifest.")
    if result.task in CLASSIFICATION:
        return Material(result, evaluation_rows(rows, data.get("every_frames", 0)), None)
    task = load_finetuned(command.model or model_folder(command.result)).task
    if torch.cuda.is_available():
        task.network.cuda()
    return Material(result, rows, task)


def draw_case(material: Material, case: Case) -> Image:
    """A case's frame with what is true and told, under its name."""
    rows = material.rows_of(case)
    if case.frame is None:
        middle = rows[len(rows) // 2]
        frame = middle.start_frame + max(_length(middle) - 1, 0) // 2
        picture = _bars(material.result, case, _frame(middle, frame), SIDE)
        return titled(picture, case.sequence, case.note)
    for row in rows:
        for piece in _pieces(row, material.task):
            if case.frame in _judged(piece, material.task):
                drawn = _dense(piece, material.task, SIDE)
                picture = next(one.picture for one in drawn if one.frame == case.frame)
                return titled(picture, case.sequence, case.note)
    raise ManifestError(
        f"Frame {case.frame} of {case.sequence} is in no row of the manifest; give the one the "
        "result was tested on (--manifest)."
    )


def draw_video(material: Material, case: Case, side: int = SIDE) -> Iterator[Drawn]:
    """Every judged frame of the rows of a case's video, once and in order."""
    last, tested = -1, material.tested(case)
    rows = material.rows_of(case)
    if material.task is None:
        told, paths = _told(material.result), {row.path for row in rows}
        for row in material.rows:
            if row.path in paths and (name := material.name(row)) in told:
                yield from _classified(material.result, replace(case, sequence=name), row, side)
        return
    for row in rows:
        for piece in _pieces(row, material.task):
            if tested.isdisjoint(_judged(piece, material.task)):
                continue
            for drawn in _dense(piece, material.task, side):
                if drawn.frame > last and drawn.frame in tested:
                    last = drawn.frame
                    yield drawn


def _classified(result: SeedResult, case: Case, row: Segment, side: int) -> Iterator[Drawn]:
    """Every frame of a row under the same bars."""
    with open_video(row.file) as video:
        wanted = range(row.start_frame, row.start_frame + _length(row))
        for number, frame in video.stream(list(wanted)):
            yield Drawn(number, _bars(result, case, frame, side))


def write_film(path: Path, material: Material, case: Case) -> None:
    """A whole video with what is true and told, at its own pace."""
    with open_video(material.rows_of(case)[0].file) as video:
        fps = FOLDER_FPS if math.isnan(video.fps) else video.fps
    pictures = (
        titled(one.picture, case.sequence, f"frame {one.frame}")
        for one in draw_video(material, case, FILM_SIDE)
    )
    first = next(pictures, None)
    if first is None:
        raise RunError(f"{case.sequence} has no frame to show.")
    height, width = (side + side % 2 for side in first.shape[:2])
    with film(path, (height, width), Fraction(fps).limit_denominator(1000)) as add:
        for picture in chain([first], pictures):
            add(_padded(picture, height, width))


def _bars(result: SeedResult, case: Case, frame: Image, side: int) -> Image:
    row = _told(result)[case.sequence]
    told = [float(row[PROBABILITY + name]) for name in result.classes]
    truth = [result.classes.index(name) for name in row["truth"].split(";") if name]
    return draw_classes(frame, side, result.classes, told, truth)


def _told(result: SeedResult) -> dict[str, dict[str, str]]:
    return {row["sample"]: dict(row) for row in result.rows}


def _pieces(row: Segment, task: Task | None) -> list[Piece]:
    assert task is not None
    return pieces_of([row], task.clip_spec)


def _judged(piece: Piece, task: Task | None) -> list[int]:
    """Numbers in the file of the frames that are judged."""
    assert task is not None
    indices = [piece.segment.start_frame + index for index in piece.indices]
    return [indices[piece.key]] if task.clip_spec.is_video_detection else indices


@torch.no_grad()
def _dense(piece: Piece, task: Task | None, side: int) -> list[Drawn]:
    """The judged frames of a piece, drawn at their own resolution."""
    assert task is not None
    batch = join([EvaluationClips([piece], task.clip_spec)[0]])
    if not isinstance(batch, LabelledBatch):
        raise RunError(f"{piece.segment.name} can't be shown: {batch[0].reason}")
    task.network.eval()
    batch = batch.to(next(task.network.parameters()).device)
    numbers = _judged(piece, task)
    with open_video(piece.segment.file) as video:
        frames = video.read(numbers)
    if isinstance(task, Segmentation):
        told = task.network.predict(task.clip(batch), batch.sizes[0])[0].cpu().numpy()
        return [
            Drawn(number, draw_mask(frame, side, true, mask), mask)
            for number, frame, true, mask in zip(
                numbers, frames, batch.truths[0], told, strict=True
            )
        ]
    assert isinstance(task, Detection)
    (predictions,) = task.predict(batch)
    drawn = []
    for frame, boxes in zip(frames, predictions[0].frames, strict=True):
        is_sure = boxes.scores >= SCORE
        several = len(task.classes) > 1
        names = [task.classes[k] for k in boxes.classes[is_sure]] if several else ()
        picture = draw_boxes(
            frame, side, boxes.true, boxes.boxes[is_sure], boxes.scores[is_sure], names
        )
        drawn.append(Drawn(boxes.frame, picture))
    return drawn


def _frame(row: Segment, number: int) -> Image:
    with open_video(row.file) as video:
        frame: Image = video.read([number])[0]
    return frame


def _length(row: Segment) -> int:
    if row.num_frames is not None:
        return row.num_frames
    with open_video(row.file) as video:
        return len(video) - row.start_frame


def _padded(picture: Image, height: int, width: int) -> Image:
    """The picture in a frame of the film's size, white below; what reaches further is cut."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    part = picture[:height, :width]
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    with told_faults():
        page = show(read_command(Show, "python -m finetune.show", words))
    Console(highlight=False, soft_wrap=True).print(Text(f"The page is {page}."))


if __name__ == "__main__":
    main()
