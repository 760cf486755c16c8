"""`python -m finetune.evaluate`: judge a fine-tuned model on any labelled manifest."""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from endofm.data.labelled.clips import evaluation_rows, pieces_of
from endofm.data.labelled.rows import check_labels, refuse_missing
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.errors import ManifestError, WeightsError
from endofm.program import told_faults
from endofm.tasks.finetuning.contract import Figures
from endofm.tasks.finetuning.evaluating import Evaluator, Reader
from endofm.tasks.finetuning.finetuned import is_finetuned, load_finetuned

from .results import INTERVALS, describe, not_scored, write_json
from .samples import write_samples


@dataclass(frozen=True)
class Evaluate:
    """Judge a fine-tuned model: every row of a split once, as its run's test did."""

    model: tyro.conf.Positional[Path]
    """A fine-tuned model folder, or the folder of a run that has one."""
    manifest: Path
    """Clips with labels, masks or boxes."""
    root: Path | None = None
    """Folder that the manifest's paths start from; by default its own."""
    split: str = "test"
    """Take only rows of this split; '' for all."""
    out: Path | None = None
    """Write metrics.json and samples.csv to this folder."""
    batch_size: int = 8
    """Clips at a time."""
    workers: int = 2
    """Processes that decode."""


def evaluate(command: Evaluate) -> Figures:
    """Load, check every row, judge, and write what was found."""
    accelerator = Accelerator()
    found = load_finetuned(model_folder(command.model))
    task = found.task
    rows = choose_rows(command)
    data = replace(task.clip_spec.data, manifests=(command.manifest,), workers=command.workers)
    clip_spec = replace(task.clip_spec, data=data)
    refuse_missing(rows)
    check_labels(rows, data, clip_spec.kind)
    task.clip_spec = clip_spec
    task.network.to(accelerator.device)
    pieces = pieces_of(evaluation_rows(rows, data.every_frames), clip_spec)
    reader = Reader(accelerator, command.batch_size, command.workers)
    evaluation = Evaluator(reader, data.max_broken_share)(task, pieces)
    figures = task.score(evaluation.predictions, INTERVALS)
    if command.out is not None and accelerator.is_main_process:
        command.out.mkdir(parents=True, exist_ok=True)
        write_samples(command.out / "samples.csv", task, evaluation.predictions)
        told = describe(found.config, task, figures, evaluation.broken)
        told |= {"model": str(command.model), "provenance": dict(found.provenance)}
        write_json(command.out / "metrics.json", told)
    if accelerator.is_main_process:
        show_figures(figures, not_scored(evaluation.broken))
    return figures


def model_folder(given: Path) -> Path:
    """The folder itself, or `model` in a run's; raises `WeightsError` where there is none."""
    runs = sorted(given.glob("seed_*/model"))
    for folder in (given, given / "model", *(runs if len(runs) == 1 else ())):
        if is_finetuned(folder):
            return folder
    hint = f"it has {len(runs)} runs, give one of them" if runs else "give a run's `model` folder"
    raise WeightsError(f"{given} is no fine-tuned model; {hint}.")


def choose_rows(command: Evaluate) -> list[Segment]:
    """The rows of the split; raises `ManifestError` where there is none."""
    rows = read_manifest(command.manifest, command.root)
    kept = [row for row in rows if command.split in ("", row.split)]
    if not kept:
        found = ", ".join(sorted({row.split or "(empty)" for row in rows}))
        raise ManifestError(
            f"{command.manifest} has no row of the split '{command.split}'; its splits are: "
            f"{found}."
        )
    return kept


def show_figures(figures: Figures, note: str) -> None:
    """Every figure with its interval."""
    table = Table("figure", "value", "low", "high", title=f"Over {figures.unit}")
    for name, value in figures.values.items():
        cells = (value.value, value.low, value.high)
        table.add_row(name, *("–" if cell is None else f"{cell:.4f}" for cell in cells))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if note:
        console.print(Text(note))


def main() -> None:
    """Judge and print; a fault is one sentence and exit status 1."""
    command = tyro.cli(Evaluate, prog="python -m finetune.evaluate", description=Evaluate.__doc__)
    with told_faults():
        evaluate(command)


if __name__ == "__main__":
    main()
