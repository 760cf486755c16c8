"""A run's log: a progress line, metrics.jsonl, trackers, quarantine, and the watch for faults.

Losses stay on the device and are read every `log_every` steps, so that a step waits for nothing.
"""

import csv
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from endofm.data.dataset import Broken
from endofm.errors import RunError
from endofm.processes import gather_objects, num_processes, sum_over_processes
from endofm.training.monitor import Health
from endofm.training.setup import Run, write_text
from endofm.training.trackers import Trackers


class NamedBatch(Protocol):
    """What the log reads of a batch."""

    names: list[str]
    broken: list[Broken]


class BrokenLimit(Protocol):
    """What the log reads of the data's configuration."""

    @property
    def max_broken_share(self) -> float:
        """Share of the clips that may be broken."""


class Scheduled(Protocol):
    """What holds at a step."""

    def numbers(self) -> dict[str, float]:
        """By name."""


class Watch(Protocol):
    """Looks at outputs between two rows."""

    def health(self) -> Health | None:
        """What it has seen, if it has seen enough."""


@dataclass
class Pending:
    """What has happened since the last row."""

    steps: list[int] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    data_seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)


class RunLog:
    """Rows of a run. `update` every step, `flush` when a row or a checkpoint is due."""

    def __init__(
        self,
        run: Run,
        tree: Mapping[str, Any],
        steps: int,
        first: int,
        num_clips: int,
        data: BrokenLimit,
    ) -> None:
        """Log steps `first` to `steps` of a run on `num_clips` clips."""
        self.run = run
        self.num_clips = num_clips
        self.max_broken = int(data.max_broken_share * num_clips)
        self.is_main = run.accelerator.is_main_process
        self.console = Console(quiet=not self.is_main, highlight=False, soft_wrap=True)
        self.file = run.folder / "metrics.jsonl"
        self.quarantine = run.folder / "quarantine.csv"
        self.broken: dict[str, str] = {}
        self.warned: set[str] = set()
        self.pending = Pending()
        names = run.config.trackers if self.is_main else ()
        self.trackers = Trackers(names, run.folder, tree, self.warn)
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=steps, completed=first)
        self.progress.start()
        if self.is_main:
            self._drop_rows_after(first)
        if first and self.quarantine.is_file():
            with self.quarantine.open(encoding="utf-8", newline="") as file:
                self.broken = {name: reason for name, reason in list(csv.reader(file))[1:]}

    def warn(self, sentence: str) -> None:
        """Say something once."""
        if sentence not in self.warned:
            self.warned.add(sentence)
            self.console.print(Text.assemble(("warning:", "yellow"), f" {sentence}"))

    def say(self, sentence: str) -> None:
        """A plain line."""
        self.console.print(Text(sentence))

    def update(
        self, step: int, scalars: Mapping[str, Tensor], batches: Sequence[NamedBatch], waited: float
    ) -> None:
        """Take a step: scalars still on the device, its batches, seconds waited for them."""
        self.keys = list(scalars)
        self.pending.steps.append(step)
        self.pending.values.append(torch.stack([one.detach().float() for one in scalars.values()]))
        self.pending.names.append([name for batch in batches for name in batch.names])
        self.pending.broken += [broken for batch in batches for broken in batch.broken]
        self.pending.data_seconds += waited
        self.progress.update(self.bar, completed=step + 1)

    def flush(self, now: Scheduled, clips_per_step: int, monitor: Watch) -> None:
        """Write a row. Raises `RunError` for a loss that is not finite or too many broken clips.

        A collective call: every process makes it at the same step.
        """
        self._count_broken(self.pending.broken)
        values = sum_over_processes(torch.stack(self.pending.values)) / num_processes()
        self._check_finite(values)
        seconds = time.perf_counter() - self.pending.since
        steps = len(self.pending.steps)
        row = dict(zip(self.keys, values.mean(0).tolist(), strict=True))
        row |= now.numbers()
        row |= {
            "clips_per_second": steps * clips_per_step / seconds,
            "step_seconds": seconds / steps,
            "data_wait_share": self.pending.data_seconds / seconds,
            "broken_clips": len(self.broken),
        }
        health = monitor.health()
        if health is not None:
            row |= asdict(health)
            for sentence in health.warnings():
                self.warn(sentence)
        self._write(self.pending.steps[-1] + 1, row)
        self.pending = Pending()

    def note(self, step: int, row: Mapping[str, float], sentence: str) -> None:
        """A row beside those of the steps, and a line about it: what a validation found."""
        if self.is_main:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
            self.trackers.log(row, step)
        self.say(sentence)

    def close(self, last_words: str = "") -> None:
        """End the progress line and the trackers."""
        self.progress.stop()
        self.trackers.finish()
        if last_words:
            self.say(last_words)

    def _write(self, step: int, row: dict[str, float]) -> None:
        if not self.is_main:
            return
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        self.trackers.log(row, step)
        short = f"loss {row['loss']:.3f}  {row['clips_per_second']:.1f} clips/s"
        if "rankme" in row:
            short += f"  rank {row['rankme']:.1f}"
        self.progress.update(self.bar, description=short)
        if not self.console.is_terminal:
            self.console.print(f"step {step}  {short}")

    def _drop_rows_after(self, step: int) -> None:
        """A resumed run writes the rows after its checkpoint again."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):  # the half line of a killed run
                continue
        write_text(self.file, "".join(line + "\n" for line in kept))

    def _check_finite(self, values: Tensor) -> None:
        finite = torch.isfinite(values).all(dim=1).tolist()
        if all(finite):
            return
        bad = finite.index(False)
        names = [name for part in gather_objects(self.pending.names[bad]) for name in part]
        shown = dict(zip(self.keys, values[bad].tolist(), strict=True))
        which = ", ".join(key for key, value in shown.items() if not math.isfinite(value))
        raise RunError(
            f"Step {self.pending.steps[bad]} gave a value that is not finite ({which}) on the "
            f"batch {', '.join(names)}; the last checkpoint is from before it: go on from there "
            "with a lower optim.lr_per_256 or run.precision no, or leave the clip out."
        )

    def _count_broken(self, broken: Sequence[Broken]) -> None:
        reports = [item for part in gather_objects(list(broken)) for item in part]
        new = {name: reason for name, reason in reports if name not in self.broken}
        if not new:
            return
        self.broken |= new
        for reason in new.values():
            self.warn(reason)
        if self.is_main:
            with self.quarantine.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("clip", "reason"), *sorted(self.broken.items())])
        if len(self.broken) > self.max_broken:
            raise RunError(
                f"{len(self.broken)} of {self.num_clips} clips can't be decoded, more than "
                f"data.max_broken_share allows ({self.max_broken}); {self.quarantine} names each "
                f"and "
                "why: mend them, leave them out of the manifest, or raise the share."
            )
