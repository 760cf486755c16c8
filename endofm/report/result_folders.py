"""Result folders of the fine-tuning program, read again: figures of every seed, test samples."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endofm.errors import RunError
from endofm.metrics.bootstrap import Measure
from endofm.metrics.classification import Sample, measure_of
from endofm.metrics.detection import CountMeasure, FrameCounts
from endofm.metrics.mask_figures import MaskMeasure
from endofm.metrics.segmentation import MaskScore

PROBABILITY = "p/"
Row = Mapping[str, str]


@dataclass(frozen=True)
class SeedResult:
    """What the run of one seed left."""

    folder: Path
    seed: int
    told: Mapping[str, Any]
    """Its metrics.json."""
    rows: Sequence[Row]
    """Its samples.csv."""

    @property
    def task(self) -> str:
        """Kind of the task."""
        return str(self.told["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.told["classes"])

    @property
    def figures(self) -> dict[str, float | None]:
        """The test's figures by name."""
        return {name: told["value"] for name, told in self.told["metrics"].items()}

    @property
    def samples(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """What is true of each test sample: its group, and its truth in as far as the table has
        it.
        """
        keys = [name for name in ("sample", "sequence", "frame", "class") if name in self._columns]
        truths = [name for name in TRUTHS if name in self._columns]
        return {
            tuple(row[name] for name in keys): tuple(row[name] for name in ("group", *truths))
            for row in self.rows
        }

    @property
    def _columns(self) -> Sequence[str]:
        return list(self.rows[0]) if self.rows else []


TRUTHS = ("truth", "true_pixels", "true_boxes")


@dataclass(frozen=True)
class Result:
    """All seeds of a result folder."""

    name: str
    seeds: tuple[SeedResult, ...]


def read_result(folder: Path, name: str = "") -> Result:
    """A result folder (`run.out`, or the folder of one share of the labels), or that of one seed.

    Raises `RunError` where it is none, or not finished.
    """
    folder = Path(folder)
    if (folder / "samples.csv").is_file():
        return Result(name or folder.name, (_read_seed(folder),))
    shares = sorted(path.name for path in folder.glob("labels_*"))
    if shares:
        raise RunError(
            f"{folder} has results for several shares of the labels; give one of them: "
            f"{', '.join(str(folder / share) for share in shares)}."
        )
    seeds = sorted(folder.glob("seed_*"), key=lambda path: (len(path.name), path.name))
    if not seeds:
        raise RunError(
            f"{folder} is no result folder (it has no seed_*); give the --run.out of a finished "
            "`python -m finetune`."
        )
    return Result(name or folder.name, tuple(_read_seed(path) for path in seeds))


def pair_measure(one: SeedResult, two: SeedResult) -> tuple[Measure, list[str]]:
    """Figures of two results on the same samples as a function of 2 S weights, and S groups.

    The first S weights are of the first result's answers. Raises `RunError` where the samples
    differ, or their table lacks what figures need.
    """
    check_same_samples(one, two)
    if any(name.startswith(PROBABILITY) for name in one.rows[0]):
        return _classification(one, two)
    if "shared_pixels" in one.rows[0]:
        return _segmentation(one, two)
    return _detection(one, two)


def check_same_samples(one: SeedResult, two: SeedResult) -> None:
    """Raise `RunError` unless both were tested on the same samples with the same truth."""
    if (one.task, one.classes) != (two.task, two.classes):
        raise RunError(
            f"{one.folder} is {one.task} of {', '.join(one.classes)}, {two.folder} is {two.task} "
            f"of {', '.join(two.classes)}; only results of one task can be compared."
        )
    first, second = one.samples, two.samples
    for here, there, where in ((first, second, two.folder), (second, first, one.folder)):
        missing = sorted(here.keys() - there.keys())
        if missing:
            raise RunError(
                f"{one.folder} and {two.folder} were not tested on the same samples: {where} lacks "
                f"{len(missing)}, such as {' '.join(missing[0])}; test both on one manifest."
            )
    other = [key for key in first if first[key] != second[key]]
    if other:
        raise RunError(
            f"{one.folder} and {two.folder} differ in what is true of {len(other)} samples, such "
            f"as {' '.join(other[0])} ({', '.join(first[other[0]])} against "
            f"{', '.join(second[other[0]])}); test both on one manifest."
        )


def _classification(one: SeedResult, two: SeedResult) -> tuple[Measure, list[str]]:
    classes = one.classes
    several = one.task == "multi_label"
    samples = []
    for result in (one, two):
        for row in sorted(result.rows, key=lambda row: row["sample"]):
            names = [name for name in row["truth"].split(";") if name]
            labels = tuple(classes.index(name) for name in names)
            told = tuple(float(row[PROBABILITY + name]) for name in classes)
            truth = labels if several else labels[0]
            samples.append(Sample(row["sample"], row["group"], truth, told))
    positive = one.told.get("config", {}).get("task", {}).get("positive") or None
    measure = measure_of(samples, classes, positive)
    return measure, [sample.group for sample in samples[: len(samples) // 2]]


def _segmentation(one: SeedResult, two: SeedResult) -> tuple[Measure, list[str]]:
    scores = []
    for number, result in enumerate((one, two)):
        for row in result.rows:
            scores.append(
                MaskScore(
                    f"{number} {row['sequence']}",  # all of the first come before the second's
                    int(row["frame"]),
                    result.classes.index(row["class"]),
                    int(row["told_pixels"]),
                    int(row["true_pixels"]),
                    int(row["shared_pixels"]),
                    float(row["hd95"]),
                )
            )
    measure = MaskMeasure(scores, one.classes)
    groups = {row["sequence"]: row["group"] for row in one.rows}
    return measure, [groups[name] for name in sorted(groups)]


def _detection(one: SeedResult, two: SeedResult) -> tuple[Measure, list[str]]:
    counts, groups = [], []
    for result in (one, two):
        for row in sorted(result.rows, key=lambda row: (row["sequence"], int(row["frame"]))):
            try:
                numbers = {name: int(row[column]) for name, column in DETECTION_COLUMNS.items()}
            except KeyError as error:
                raise RunError(
                    f"{result.folder / 'samples.csv'} has no column {error}; test the model again "
                    "with this version (python -m finetune.evaluate)."
                ) from error
            is_present = bool(row["best_score"]) and float(row["best_score"]) > 0.5
            counts.append(
                FrameCounts(row["sequence"], int(row["frame"]), is_present=is_present, **numbers)
            )
            groups.append(row["group"])
    return CountMeasure(counts), groups[: len(groups) // 2]


DETECTION_COLUMNS = {
    "true": "true_boxes",
    "told": "told_boxes",
    "matched": "matched",
    "hit": "hit",
    "astray": "astray",
}


def _read_seed(folder: Path) -> SeedResult:
    metrics, samples = folder / "metrics.json", folder / "samples.csv"
    try:
        told = json.loads(metrics.read_text(encoding="utf-8"))
        with samples.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        seed, _, _, _ = told.get("seed", 0), told["metrics"], told["classes"], told["task"]
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is not finished (it has no {Path(error.filename).name}); run the same "
            "command again, it goes on."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{folder} can't be read as a result ({error}); test it again.") from error
    if not rows:
        raise RunError(f"{samples} has no samples; test it again.")
    return SeedResult(folder, int(seed), told, rows)
