"""The worst and the best test cases of a result, and the page that shows them with its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endofm.metrics.segmentation import dice
from endofm.report.curves import reject_curve
from endofm.report.drawing import grid, legend
from endofm.report.html import Bold, Heading, Listing, Picture, Section, Table, Text, write_page
from endofm.report.result_folders import PROBABILITY, Row, SeedResult
from endofm.report.views import Image


@dataclass(frozen=True)
class Case:
    """A test sample, or a frame of one, and how well it went."""

    sequence: str
    """Path of its video; of a classification the sample's name."""
    frame: int | None
    """Shown frame of the file; none where a whole sample is classified."""
    score: float
    """From 0 to 1; the higher the better."""
    note: str
    """The score in words."""


@dataclass(frozen=True)
class Shown:
    """Drawn cases for a page."""

    heading: str
    cases: Sequence[Case]
    sheet: Image


def rank_cases(result: SeedResult, count: int) -> tuple[list[Case], list[Case]]:
    """The worst and the best cases, the most extreme first, at most `count` of each.

    A classification's score is the probability of what is true, a mask's its Dice (mean of the
    classes), that of a frame of boxes its box F1. Frames with nothing there and nothing told say
    little and are left out. Sequences take turns, so that one bad video does not fill the list, and
    no case is in both lists.
    """
    ranked = sorted(_cases(result), key=lambda case: (case.score, case.sequence, case.frame or 0))
    count = min(count, len(ranked) // 2) or min(count, len(ranked))
    worst = _in_turns(ranked, count)
    rest = [case for case in reversed(ranked) if case not in worst]
    return worst, _in_turns(rest, count)


def case_sheet(pictures: Sequence[Image], columns: int = 3) -> Image:
    """Drawn cases in rows, under the legend of the colours."""
    sheet = grid(pictures, columns)
    return np.concatenate([legend(sheet.shape[1]), sheet])


def result_page(path: Path, result: SeedResult, shown: Sequence[Shown] = ()) -> Path:
    """Write the page of a result: figures, tables, the drawn cases, the configuration."""
    title = f"Fine-tuning: {result.folder.absolute().parent.name}/{result.folder.absolute().name}"
    sections = result_sections(result, shown)
    config = result.folder / "config.yaml"
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        listing = Listing("config.yaml, every option resolved", text)
        sections += [Heading("Configuration"), listing]
    return write_page(path, title, sections)


def result_sections(result: SeedResult, shown: Sequence[Shown] = ()) -> list[Section]:
    """What a result says, for a page: figures first, then the drawn cases in their order."""
    told, details = result.told, result.told.get("details") or {}
    sections: list[Section] = [Text(_summary(result)), _figures(told)]
    for one in shown:
        rows = [[case.sequence, case.note, f"{case.score:.2f}"] for case in one.cases]
        sections += [Heading(one.heading), Picture(f"{one.heading}, {_by(result)}.", one.sheet)]
        sections += [Table("In the order of the pictures", ("", "", "score"), rows)]
    if details.get("rejects"):
        points = [(one["rejected"], one["accuracy"]) for one in details["rejects"]["curve"]]
        caption = "Accuracy of the other test samples when a share is rejected, the least certain "
        caption += f"first (by: {details['rejects']['by']})."
        sections += [Heading("Rejecting"), Picture(caption, reject_curve(points))]
    if details.get("confusion"):
        sections += [Heading("Confusion"), _confusion(result.classes, details["confusion"])]
    for name, key in (("classes", "per_class"), ("sequences", "per_sequence")):
        if details.get(key):
            sections += [Heading(f"Single {name}"), _records(details[key], result.classes)]
    if details.get("sequences"):
        rows = [
            {"sequence": one["sequence"], "frames": one["frames"], "boxes": one["true"]}
            | one["values"]
            for one in details["sequences"]
        ]
        sections += [Heading("Single sequences"), _records(rows, result.classes)]
    if told.get("not_scored"):
        rows = [[str(one["name"]), str(one["reason"])] for one in told["not_scored"]]
        sections += [Heading("Not scored"), Table("In no figure", ("row", "reason"), rows)]
    return sections


def _cases(result: SeedResult) -> list[Case]:
    rows = result.rows
    if any(name.startswith(PROBABILITY) for name in rows[0]):
        return [_classified(row, result) for row in rows]
    return _masked(rows) if "shared_pixels" in rows[0] else _boxed(rows)


def _classified(row: Row, result: SeedResult) -> Case:
    true = [name for name in row["truth"].split(";") if name]
    told = {name: float(row[PROBABILITY + name]) for name in result.classes}
    if result.task == "multi_label":
        each = [told[name] if name in true else 1 - told[name] for name in result.classes]
        score = min(each)
        note = f"true {', '.join(true) or 'none'}; surest mistake {1 - score:.2f}"
    else:
        score = told[true[0]]
        note = f"true {true[0]}, told {row['told']}"
    return Case(row["sample"], None, score, note)


def _masked(rows: Sequence[Row]) -> list[Case]:
    frames: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        told, true, shared = (int(row[f"{name}_pixels"]) for name in ("told", "true", "shared"))
        if told or true:
            place = row["sequence"], int(row["frame"])
            frames.setdefault(place, []).append(dice(told, true, shared))
    cases = []
    for (sequence, frame), of_classes in frames.items():
        score = sum(of_classes) / len(of_classes)
        cases.append(Case(sequence, frame, score, f"frame {frame}, Dice {score:.2f}"))
    return cases


def _boxed(rows: Sequence[Row]) -> list[Case]:
    cases = []
    for row in rows:
        true, told, matched = (int(row[name]) for name in ("true_boxes", "told_boxes", "matched"))
        if true or told:
            score, frame = 2 * matched / (true + told), int(row["frame"])
            wrong = told - matched
            note = f"frame {frame}, {matched} of {true} found, {wrong} wrong"
            cases.append(Case(row["sequence"], frame, score, note))
    return cases


def _in_turns(ranked: Sequence[Case], count: int) -> list[Case]:
    """The first of every sequence in their order, then the second of every sequence, and so on."""
    seen: dict[str, int] = {}
    turns: list[tuple[int, int, Case]] = []
    for place, case in enumerate(ranked):
        turn = seen[case.sequence] = seen.get(case.sequence, 0) + 1
        turns.append((turn, place, case))
    chosen = sorted(turns, key=lambda entry: entry[:2])[:count]
    return [case for _, _, case in sorted(chosen, key=lambda entry: entry[1])]


def _by(result: SeedResult) -> str:
    if any(name.startswith(PROBABILITY) for name in result.rows[0]):
        return "by the probability of what is true"
    if "shared_pixels" in result.rows[0]:
        return "by Dice; frames with nothing there and nothing told are left out"
    return "by box F1 at a score of 0.5; frames with nothing there and nothing told are left out"


def _summary(result: SeedResult) -> str:
    told = result.told
    words = f"Task {result.task}, seed {result.seed}, classes {', '.join(result.classes)}."
    chosen = told.get("chosen")
    if chosen:
        value = chosen.get("value")
        known = "" if value is None else f" ({value:.4f})"
        words += f" The weights of step {chosen['step']}, best by {chosen['by']} on validation"
        words += f"{known}, were tested once."
    protocol = str(told.get("protocol", "honest"))
    if protocol != "honest":
        words += f" The protocol is {protocol}: its numbers are for comparison only."
    return words


def _figures(told: Any) -> Table:
    rows = []
    for name, value in told["metrics"].items():
        if "/" in name:
            continue
        number = value["value"]
        low, high = value.get("low"), value.get("high")
        bounds = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        cell = "–" if number is None else Bold(f"{number:.4f}")
        rows.append([name, cell, bounds, value.get("reason") or ""])
    columns = ("figure", "value", "95 % interval", "")
    note = (
        "Intervals: bootstrap over the test's groups. Figures that begin with legacy_ have known "
    )
    return Table("Test", columns, rows, note + "faults and are for comparison with old numbers.")


def _confusion(classes: Sequence[str], cells: Sequence[Sequence[int]]) -> Table:
    rows: list[list[str]] = []
    for number, (name, row) in enumerate(zip(classes, cells, strict=True)):
        shown = [Bold(str(c)) if place == number else str(c) for place, c in enumerate(row)]
        rows.append([name, *shown])
    return Table("True classes as rows, told ones as columns", ["", *classes], rows)


def _records(rows: Sequence[Any], classes: Sequence[str]) -> Table:
    columns = list(rows[0])
    body = []
    for row in rows:
        cells = []
        for name in columns:
            value = row[name]
            is_class = name == "label" and isinstance(value, int) and value < len(classes)
            cells.append(classes[value] if is_class else _shown(value))
        body.append(cells)
    return Table("", columns, body)


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
