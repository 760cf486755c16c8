"""What a run leaves: metrics.json, samples.csv, the model folder; and the summary over seeds."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import scipy
from rich.console import Console
from rich.table import Table
from rich.text import Text

from endofm import __version__
from endofm.config import as_tree, differences, to_yaml
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.data.pretraining.dataset import Broken
from endofm.errors import RunError
from endofm.files import write_text
from endofm.metrics.bootstrap import Bootstrap
from endofm.tasks.finetuning.contract import Figures, Task, TaskConfig
from endofm.tasks.finetuning.evaluating import Evaluation
from endofm.tasks.finetuning.finetuned import Adapters, save_finetuned
from endofm.training.setup import Run

from .config import FinetuneConfig
from .samples import write_samples

INTERVALS = Bootstrap()
LEVEL = 0.95
DRAW = "draw.csv"
"""The manifest of the rows that a seed drew, with their splits."""
FREE = (
    "data.manifests",
    "data.root",
    "data.workers",
    "run.out",
    "run.log_every",
    "run.trackers",
    "run.patience_seconds",
)
"""What a finished run may be asked for with, and no number hangs on it, or it is checked apart."""


@dataclass(frozen=True)
class Choice:
    """Which weights were tested, and why."""

    by: str
    """A figure on validation."""
    value: float | None
    step: int


@dataclass(frozen=True)
class RunResult:
    """A run that has been tested."""

    task: Task
    adapters: Adapters
    choice: Choice
    validation: Figures
    test: Figures
    evaluation: Evaluation
    rows: Mapping[str, Sequence[Segment]]
    corpus: str
    """Fingerprint of all rows, before a share of them was taken."""
    weights: Mapping[str, str]


def has_result(config: FinetuneConfig, corpus: str) -> bool:
    """Whether a run of this recipe on these rows has been tested; it is not tested again.

    Raises `RunError` where the folder has the result of another recipe, or of other rows.
    """
    file = config.run.out / "metrics.json"
    if not file.is_file():
        return False
    told = read_json(file)
    if told.get("corpus") != corpus:
        raise RunError(
            f"{config.run.out} has the result of other rows than the manifests list now; give "
            "another --run.out."
        )
    changed = [
        line
        for line in differences(told.get("config", {}), as_tree(config))
        if line.split(":")[0] not in FREE
    ]
    if changed:
        raise RunError(
            f"{config.run.out} has the result of another recipe ({'; '.join(changed)}); give "
            "another --run.out."
        )
    say(f"{config.run.out} has been tested already; its result stands.")
    return True


def write_result(config: FinetuneConfig, run: Run, result: RunResult) -> None:
    """Write a run's folder; `metrics.json` comes last and tells that all is there."""
    if not run.accelerator.is_main_process:
        return
    provenance = {
        "trained by": f"endofm {__version__}, `python -m finetune`",
        "started from": "; ".join(f"{name}: {value}" for name, value in result.weights.items()),
        "task": config.task.kind,
        "seed": run.config.seed,
        "protocol": config.task.protocol,
        "training rows": len(result.rows["train"]),
        f"validation {result.choice.by}": result.choice.value,
    }
    if config.tuning.trains:
        save_finetuned(run.folder / "model", result.task, config.task, result.adapters, provenance)
    if config.task.draws:
        drawn = [replace(row, split=part) for part, rows in result.rows.items() for row in rows]
        write_manifest(run.folder / DRAW, drawn)
    write_samples(run.folder / "samples.csv", result.task, result.evaluation.predictions)
    told = describe(config.task, result.task, result.test, result.evaluation.broken)
    told |= {
        "seed": run.config.seed,
        "label_share": config.data.label_share[0],
        "chosen": asdict(result.choice),
        "validation": _plain(result.validation),
        "rows": {
            name: {"rows": len(rows), "groups": len({row.group for row in rows})}
            for name, rows in result.rows.items()
        },
        "corpus": result.corpus,
        "weights": dict(result.weights),
        "config": as_tree(config),
    }
    write_json(run.folder / "metrics.json", told)


def describe(
    config: TaskConfig, task: Task, figures: Figures, broken: Sequence[Broken]
) -> dict[str, Any]:
    """What a split's figures are, and of what."""
    return {
        "endofm": __version__,
        "task": config.kind,
        "protocol": config.protocol,
        "classes": list(task.classes),
        "unit": figures.unit,
        "metrics": _plain(figures),
        "details": figures.details,
        "intervals": {**asdict(INTERVALS), "over": "groups"},
        "not_scored": [item._asdict() for item in broken],
    }


def summarize(config: FinetuneConfig) -> dict[str, Any]:
    """Mean and spread over the seeds of every share, written to the result's folder."""
    shares = {}
    for share in config.data.label_share:
        told = [read_json(config.folder(share, s) / "metrics.json") for s in config.run.seeds]
        names = told[0]["metrics"]
        shares[f"{share:g}"] = {
            name: spread_of({one["seed"]: one["metrics"][name]["value"] for one in told})
            for name in names
        }
    first = told[0]
    summary = {
        "task": first["task"],
        "protocol": first["protocol"],
        "classes": first["classes"],
        "unit": first["unit"],
        "seeds": list(config.run.seeds),
        "spread": f"std over seeds; low, high: {LEVEL:g} interval of the mean (Student's t)",
        "metrics": shares[f"{config.data.label_share[-1]:g}"],
        "label_shares": shares,
        "not_scored": sum(len(one["not_scored"]) for one in told),
        "weights": first["weights"],
    }
    write_text(config.run.out / "config.yaml", to_yaml(config))
    write_json(config.run.out / "metrics.json", summary)
    return summary


def spread_of(values: Mapping[int, float | None]) -> dict[str, Any]:
    """Mean, standard deviation, extremes and the interval of the mean of a figure over seeds.

    A figure that a seed does not define has no mean; with one seed there is no spread.
    """
    known = [value for value in values.values() if value is not None]
    told: dict[str, Any] = dict.fromkeys(("mean", "std", "min", "max", "low", "high"))
    told["values"] = {str(seed): value for seed, value in values.items()}
    if not known or len(known) < len(values):
        return told
    told |= {"mean": fmean(known), "min": min(known), "max": max(known)}
    if len(known) > 1:
        std = stdev(known)
        quantile = float(scipy.special.stdtrit(len(known) - 1, (1 + LEVEL) / 2))
        reach = quantile * std / math.sqrt(len(known))
        told |= {"std": std, "low": told["mean"] - reach, "high": told["mean"] + reach}
    return told


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """The figures without those of single classes, as a table."""
    for share, metrics in summary["label_shares"].items():
        of = "" if len(summary["label_shares"]) == 1 else f", {share} of the labels"
        table = Table("figure", "mean", "std", "lowest", "highest", title=f"Test{of}")
        for name, told in metrics.items():
            if "/" not in name:
                keys = ("mean", "std", "min", "max")
                cells = ("–" if told[key] is None else f"{told[key]:.4f}" for key in keys)
                table.add_row(name, *cells)
        console.print(table)


def say(sentence: str) -> None:
    """A plain line, from the first of many processes."""
    if os.environ.get("RANK", "0") == "0":
        Console(highlight=False, soft_wrap=True).print(Text(sentence))


def not_scored(broken: Sequence[Broken]) -> str:
    """A sentence about rows that no figure counts, or nothing."""
    if not broken:
        return ""
    names = ", ".join(item.name for item in broken[:3])
    return f"{len(broken)} rows could not be read and are in no figure: {names}."


def read_json(file: Path) -> dict[str, Any]:
    """A result's file; raises `RunError` where it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} can't be read ({error}); delete it, and run again.") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} is no result; delete it, and run again.")
    return found


def write_json(file: Path, told: Mapping[str, Any]) -> None:
    """JSON without NaN, which no other reader knows; there whole or not at all."""
    text = json.dumps(_finite(told), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n")


def _plain(figures: Figures) -> dict[str, Any]:
    return {name: value.as_dict() for name, value in figures.values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
