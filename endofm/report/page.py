"""The page of a finished run; and, for other pages, what they are made of."""

import csv
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from endofm import hub
from endofm.errors import RunError
from endofm.models.timesformer import TimeSformer
from endofm.report.curves import loss_curves, read_metrics
from endofm.report.features import compare_sheet
from endofm.report.html import (
    Bold,
    Heading,
    Listing,
    Picture,
    Section,
    Table,
    Text,
    write_page,
)
from endofm.report.results import results_table
from endofm.training.monitor import Health

__all__ = [
    "Bold",
    "Heading",
    "Listing",
    "Picture",
    "Section",
    "Table",
    "Text",
    "results_table",
    "run_page",
    "write_page",
]

HEALTH = {
    "teacher_entropy": ("teacher entropy", "well below 1; at 1 its targets say nothing"),
    "marginal_entropy": ("marginal entropy", "near 1; at 0 one prototype takes all clips"),
    "feature_std": ("feature spread", "near 1; at 0 all clips look the same"),
    "rankme": ("effective rank", "the higher the better; at 1 all clips lie on one line"),
}
NUMBERS = {
    "loss": ("loss", "{:.4f}"),
    "learning_rate": ("learning rate", "{:.2e}"),
    "clips_per_second": ("clips a second", "{:.1f}"),
    "step_seconds": ("seconds a step", "{:.2f}"),
    "data_wait_share": ("time waited for data", "{:.1%}"),
    "memory_gib": ("most memory of the first process, GiB", "{:.1f}"),
    "gpu_memory_gib": ("most memory of its GPU, GiB", "{:.1f}"),
    "broken_clips": ("broken clips", "{:.0f}"),
}
CURVES = (
    "Teacher and marginal entropy are shares of the largest possible; the spread of features is 1 "
    "where they fill the sphere and 0 where all clips look the same."
)
FEATURES = (
    "Features: the first three principal components of each model's patch tokens as red, green and "
    "blue; alike colours are alike features, and colours of two models can't be compared. "
    "Attention: how much the class token takes from each patch in the last block."
)


def run_page(
    folder: Path, clips: npt.NDArray[np.uint8] | None = None, names: Sequence[str] = ()
) -> Path:
    """Write `report.html` into a pretraining run's folder; returns its path.

    With `clips` uint8 [S, T, H, W, 3] it also shows what the run's model sees in them, beside a
    model of random weights. Raises `RunError` for a folder that is no run's, `WeightsError` where
    pictures are asked for and the model is not there.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise RunError(
            f"{folder} is not a run's folder (it has no config.yaml); give the --run.out of a run."
        )
    rows = read_metrics(folder / "metrics.jsonl")
    sections: list[Section] = [Text(_state(folder, rows))]
    if rows:
        sections += [Heading("Course of the run"), Picture(CURVES, loss_curves({"": rows}))]
        sections += [_last_numbers(rows[-1]), *_health(rows)]
    if clips is not None:
        model = hub.load(folder / "model")
        models = {"pretrained": model, "untrained": untrained_twin(model)}
        picture = Picture(FEATURES, compare_sheet(models, clips, names))
        sections += [Heading("What the model sees"), picture]
    sections += _broken(folder / "quarantine.csv")
    config = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    sections += [Heading("Configuration"), Listing("config.yaml, every option resolved", config)]
    return write_page(folder / "report.html", f"Pretraining: {folder.absolute().name}", sections)


def untrained_twin(model: TimeSformer, seed: int = 0) -> TimeSformer:
    """The same architecture with random weights; the global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = TimeSformer(model.config)
    twin.input_spec = model.input_spec
    return twin.to(next(model.parameters()).device).eval()


def _state(folder: Path, rows: Sequence[dict[str, float]]) -> str:
    """How far the run has come, in a sentence or two."""
    if not rows:
        return "The run has not logged a step yet."
    if (folder / "model" / "config.json").is_file():
        end = 'It has exported its model: the folder "model" beside this page.'
    else:
        end = "It has exported no model yet, so it is under way or was stopped."
    return f"The last of {len(rows)} rows is of step {rows[-1]['step']:.0f}. {end}"


def _last_numbers(row: dict[str, float]) -> Table:
    shown = [[name, form.format(row[key])] for key, (name, form) in NUMBERS.items() if key in row]
    return Table(f"At step {row['step']:.0f}", ("", "value"), shown)


def _health(rows: Sequence[dict[str, float]]) -> list[Section]:
    """The collapse watch's last numbers and what they warn of."""
    keys = [field.name for field in fields(Health)]
    measured = [row for row in rows if all(math.isfinite(row.get(k, math.nan)) for k in keys)]
    if not measured:
        return [Text("Signs of collapse were not measured: the run has shown too few clips.")]
    last = measured[-1]
    health = Health(**{key: last[key] for key in keys})
    note = "\n\n".join(health.warnings()) or "No sign of collapse."
    cells = [[HEALTH[key][0], f"{last[key]:.3f}", HEALTH[key][1]] for key in keys]
    title = f"Collapse watch at step {last['step']:.0f}"
    return [Table(title, ("", "value", "healthy"), cells, note)]


def _broken(quarantine: Path) -> list[Section]:
    """Clips that could not be decoded, and why."""
    if not quarantine.is_file():
        return []
    with quarantine.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.reader(file) if row][1:]
    if not rows:
        return []
    title = "1 clip was left out" if len(rows) == 1 else f"{len(rows)} clips were left out"
    return [Heading("Broken clips"), Table(title, ("clip", "reason"), rows)]
