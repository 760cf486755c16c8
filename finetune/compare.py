"""`python -m finetune.compare A B C`: result folders beside each other, with a paired test."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tyro.conf import Positional

from endofm.errors import ConfigError
from endofm.files import write_text
from endofm.metrics.bootstrap import Bootstrap, Measure
from endofm.metrics.paired import Difference, paired
from endofm.program import read_command, told_faults
from endofm.report.html import Section, Table, write_page
from endofm.report.html import Text as Words
from endofm.report.result_folders import Result, check_same_samples, pair_measure, read_result

from .results import spread_of

NOTHING = "–"
FIGURES_NOTE = (
    "In brackets the 95 % interval: of the mean over seeds (Student's t) where a result has "
    "several, else the bootstrap over the test's groups."
)
DRAWS_NOTE = (
    " Every seed drew its test anew from the same rows: the tests overlap, and the interval of the "
    "mean is narrower than that of tests on other patients would be."
)
TEST_NOTE = (
    "Each result less the first, in the mean of the seeds that both have. In brackets the 95 % "
    "interval of a paired bootstrap over the test's groups; p: share of swaps of whole groups' "
    "answers between the two that give a difference at least as large (permutation test{how}). "
    "Many figures are tested at once: choose yours before you look."
)


@dataclass(frozen=True)
class Compare:
    """Compare results of `python -m finetune` on the same test samples; the first is the base."""

    results: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RESULTS")]
    """Result folders (`run.out`), or folders of single seeds."""
    figures: tuple[str, ...] = ()
    """Figures to show; default: all but those of single classes."""
    resamples: int = 1000
    """Draws of the bootstrap and of the permutation test; 0: no test."""
    seed: int = 0
    """Of those draws."""
    markdown: Path | None = None
    """Write the tables here, too."""
    csv: Path | None = None
    """Write the numbers here, too."""
    html: Path | None = None
    """Write a page here, too."""


@dataclass(frozen=True)
class Comparison:
    """Results with the figures they share, and each one's differences from the first."""

    results: tuple[Result, ...]
    figures: tuple[str, ...]
    differences: tuple[dict[str, Difference], ...]
    """Of every result but the first."""


def compare(
    folders: Sequence[Path], figures: Sequence[str] = (), bootstrap: Bootstrap | None = None
) -> Comparison:
    """Read result folders and test every one against the first.

    Raises `RunError` for folders that are none and for tests on other samples, `ConfigError` for
    fewer than two and for unknown figures.
    """
    if len(folders) < 2:
        raise ConfigError("There is nothing to compare; give at least two result folders.")
    names = _names(folders)
    results = tuple(read_result(f, name) for f, name in zip(folders, names, strict=True))
    first = results[0].seeds[0]
    own = {seed.seed: seed for seed in results[0].seeds} if _has_draws(results) else {}
    for result in results:
        for seed in result.seeds:
            if not own or seed.seed in own:
                check_same_samples(own.get(seed.seed, first), seed)
    known = [name for name in first.figures if all(name in r.seeds[0].figures for r in results)]
    unknown = [name for name in figures if name not in known]
    if unknown:
        raise ConfigError(
            f"The results have no figure {', '.join(unknown)}; they have {', '.join(known)}."
        )
    chosen = tuple(figures) or tuple(name for name in known if "/" not in name)
    bootstrap = bootstrap or Bootstrap()
    differences = tuple(_differences(results[0], other, bootstrap) for other in results[1:])
    return Comparison(results, chosen, differences)


def _differences(one: Result, two: Result, bootstrap: Bootstrap) -> dict[str, Difference]:
    if not bootstrap.resamples:
        return {}
    second = {seed.seed: seed for seed in two.seeds}
    pairs = [(seed, second[seed.seed]) for seed in one.seeds if seed.seed in second]
    if not pairs:
        told = (", ".join(str(seed.seed) for seed in r.seeds) for r in (one, two))
        raise ConfigError(
            f"{one.name} has the seeds {next(told)} and {two.name} has {next(told)}, none of them "
            "in both; run one of them with the other's seeds, or give --resamples 0."
        )
    measured = [pair_measure(first, other) for first, other in pairs]
    groups = [group for _, own in measured for group in own]
    starts = np.cumsum([0, *(len(own) for _, own in measured)])
    parts = [
        _part(measure, slice(start, stop), len(groups))
        for (measure, _), (start, stop) in zip(measured, pairwise(starts), strict=True)
    ]
    return paired(parts, groups, bootstrap)


def _part(measure: Measure, part: slice, size: int) -> Measure:
    """A seed's measure as a function of the weights of all seeds' samples, one after the other: a
    group that several seeds have counts equally often in each.
    """
    return lambda weights: measure(np.concatenate([weights[:size][part], weights[size:][part]]))


def _has_draws(results: Sequence[Result]) -> bool:
    """Whether each seed drew a test of its own, the same in every result."""
    return results[0].seeds[0].told.get("protocol") == "balanced_draws"


def figures_table(comparison: Comparison) -> Table:
    """A row for each figure, a column for each result."""
    rows = []
    for name in comparison.figures:
        cells = []
        for result in comparison.results:
            told = spread_of({seed.seed: seed.figures[name] for seed in result.seeds})
            low, high, spread = told["low"], told["high"], ""
            if len(result.seeds) == 1:
                metric = result.seeds[0].told["metrics"][name]
                low, high = metric.get("low"), metric.get("high")
            elif told["std"] is not None:
                spread = f" ± {told['std']:.4f}"
            cells.append(_cell(told["mean"], low, high, spread))
        rows.append([name, *cells])
    columns = [
        "figure",
        *(f"{r.name} ({_count(len(r.seeds), 'seed')})" for r in comparison.results),
    ]
    note = FIGURES_NOTE + (DRAWS_NOTE if _has_draws(comparison.results) else "")
    return Table("Test: mean ± standard deviation over seeds", columns, rows, note)


def differences_table(comparison: Comparison) -> Table | None:
    """A row for each figure that can be worked out again from the samples; none without a test."""
    names = [n for n in comparison.figures if all(n in d for d in comparison.differences)]
    if not names or not comparison.differences:
        return None
    rows = []
    for name in names:
        cells = []
        for differences in comparison.differences:
            told = differences[name]
            p = "" if told.p is None else f" p {told.p:.3f}"
            cells.append(_cell(told.value, told.low, told.high, sign="+") + p)
        rows.append([name, *cells])
    some = comparison.differences[0][names[0]]
    how = ", all swaps" if some.is_exact else ""
    columns = ["figure", *(f"{result.name}" for result in comparison.results[1:])]
    caption = f"Difference from {comparison.results[0].name}, {_count(some.num_groups, 'group')}"
    return Table(caption, columns, rows, TEST_NOTE.format(how=how))


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown."""
    parts = []
    for table in tables:
        head = ["| " + " | ".join(table.columns) + " |", "| --- " * len(table.columns) + "|"]
        body = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in table.rows
        ]
        parts.append("\n".join([f"**{table.caption}**", "", *head, *body, "", table.note, ""]))
    return "\n".join(parts)


def to_csv(comparison: Comparison) -> str:
    """Every number of every seed and of the test, a row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["figure", "result", "against", "seed", "value", "low", "high", "p"])
    first = comparison.results[0].name
    for name in comparison.figures:
        for result in comparison.results:
            for seed in result.seeds:
                metric = seed.told["metrics"][name]
                told = [metric["value"], metric.get("low"), metric.get("high"), None]
                writer.writerow([name, result.name, "", seed.seed, *told])
        for result, differences in zip(comparison.results[1:], comparison.differences, strict=True):
            if name in differences:
                one = differences[name]
                writer.writerow([name, result.name, first, "", one.value, one.low, one.high, one.p])
    return text.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    with told_faults():
        _act(read_command(Compare, "python -m finetune.compare", words))


def _act(command: Compare) -> None:
    bootstrap = Bootstrap(command.resamples, command.seed)
    comparison = compare(command.results, command.figures, bootstrap)
    tables = [
        t for t in (figures_table(comparison), differences_table(comparison)) if t is not None
    ]
    console = Console(highlight=False)
    for table in tables:
        shown = RichTable(title=Text(table.caption))
        for name in table.columns:
            shown.add_column(Text(name))
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
        console.print(Text(table.note, style="dim"))
    texts = ((command.markdown, to_markdown(tables)), (command.csv, to_csv(comparison)))
    for file, text in texts:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
    if command.html:
        folders = "\n\n".join(
            f"{result.name}: {', '.join(str(seed.folder) for seed in result.seeds)}"
            for result in comparison.results
        )
        sections: list[Section] = [Words(folders), *tables]
        write_page(command.html, "Comparison of results", sections)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    paths = [folder.absolute().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise ConfigError("A result folder is given twice; give each once.")
    for length in range(1, max(len(path) for path in paths) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return ["/".join(path) for path in paths]


def _cell(
    value: float | None, low: float | None, high: float | None, spread: str = "", sign: str = ""
) -> str:
    if value is None:
        return NOTHING
    bounds = "" if low is None or high is None else f" [{low:{sign}.4f}, {high:{sign}.4f}]"
    return f"{value:{sign}.4f}{spread}{bounds}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
