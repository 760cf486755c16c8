"""A run's log: a progress line and rows, and the faults that only whole stretches of steps show.

Losses stay on the device and are read every `log_every` steps, so that a step waits for nothing.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Broken
from endofm.errors import RunError
from endofm.processes import gather_objects, num_processes, sum_over_processes
from endofm.training.broken import BrokenClips
from endofm.training.estimate import slow_bf16
from endofm.training.monitor import Health
from endofm.training.rows import Rows
from endofm.training.setup import Run
from endofm.training.trackers import Trackers
from endofm.training.waiting import ROWS, SHARE, own_cores, ways_out


class NamedBatch(Protocol):
    """What the log reads of a batch."""

    names: list[str]
    broken: list[Broken]


class DataOptions(Protocol):
    """What the log reads of the data's configuration."""

    @property
    def workers(self) -> int:
        """Processes that decode."""

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
        segments: Sequence[Segment],
        data: DataOptions,
    ) -> None:
        """Log steps `first` to `steps` of a run on some clips, until the run is left."""
        self.run, self.segments, self.data = run, segments, data
        self.is_main = run.accelerator.is_main_process
        self.console = Console(quiet=not self.is_main, highlight=False, soft_wrap=True)
        self.rows = Rows(run.folder / "metrics.jsonl")
        quarantine = run.folder / "quarantine.csv"
        self.broken = BrokenClips(quarantine, len(segments), data.max_broken_share)
        self.warned: set[str] = set()
        self.rows_waited = -1  # the first row doesn't count
        self.has_told_of_waiting = False
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
        run.exits.callback(self.close)
        if self.is_main:
            self.rows.keep(lambda row: row["step"] <= first)  # those after it are written again
            if slow := slow_bf16(run.device, run.config.precision):
                self.warn(slow)
        if first:
            self.broken.read()
        if self.broken.reasons:
            self.say(
                f"{len(self.broken.reasons)} clips stay out, since {quarantine} lists them; "
                "delete it to have them tried again."
            )
            self.broken.check_share()

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
        told = gather_objects((self.pending.broken, self.pending.data_seconds))
        self._count_broken([item for broken, _ in told for item in broken])
        values = sum_over_processes(torch.stack(self.pending.values)) / num_processes()
        self._check_finite(values)
        seconds = time.perf_counter() - self.pending.since
        steps = len(self.pending.steps)
        row = dict(zip(self.keys, values.mean(0).tolist(), strict=True))
        row |= now.numbers()
        row |= {
            "clips_per_second": steps * clips_per_step / seconds,
            "step_seconds": seconds / steps,
            "data_wait_share": max(waited for _, waited in told) / seconds,
            "broken_clips": len(self.broken.reasons),
            **_peak_memory(self.run.device),
        }
        self._look_at_waiting(row["data_wait_share"])
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
            self.rows.append(step, row)
            self.trackers.log(row, step)
        self.say(sentence)

    def take_back(self, step: int, prefix: str) -> None:
        """Drop the rows of a step with names that begin so: what they tell is done again."""
        if self.is_main:
            self.rows.keep(
                lambda row: row["step"] != step or not any(name.startswith(prefix) for name in row)
            )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done here counts neither as time of the steps nor as waiting."""
        start = time.perf_counter()
        yield
        self.pending.since += time.perf_counter() - start

    def close(self, last_words: str = "") -> None:
        """End the progress line and the trackers; a second call only says something."""
        self.progress.stop()
        self.trackers.finish()
        if last_words:
            self.say(last_words)

    def _write(self, step: int, row: dict[str, float]) -> None:
        if not self.is_main:
            return
        self.rows.append(step, row)
        self.trackers.log(row, step)
        short = f"loss {row['loss']:.3f}  {row['clips_per_second']:.1f} clips/s"
        if "rankme" in row:
            short += f"  rank {row['rankme']:.1f}"
        self.progress.update(self.bar, description=short)
        if not self.console.is_terminal:
            self.console.print(f"step {step}  {short}")

    def _look_at_waiting(self, share: float) -> None:
        """Say once that reading limits the run; two rows in a row must agree."""
        self.rows_waited = self.rows_waited + 1 if share >= SHARE or self.rows_waited < 0 else 0
        if self.rows_waited >= ROWS and not self.has_told_of_waiting:
            self.has_told_of_waiting = True
            self.warn(ways_out(share, self.data.workers, own_cores(), self.segments))

    def _check_finite(self, values: Tensor) -> None:
        finite = torch.isfinite(values).all(dim=1).tolist()
        if all(finite):
            return
        bad = finite.index(False)
        # a loss is a process's own; what all share (the gradient's norm) is not finite in each
        mine = int((~torch.isfinite(self.pending.values[bad])).sum())
        told = gather_objects((mine, self.pending.names[bad]))
        most = max(count for count, _ in told)
        batches = [
            f"{', '.join(names)} of rank {rank}" if len(told) > 1 else ", ".join(names)
            for rank, (count, names) in enumerate(told)
            if count == most
        ]
        shown = dict(zip(self.keys, values[bad].tolist(), strict=True))
        which = ", ".join(key for key, value in shown.items() if not math.isfinite(value))
        raise RunError(
            f"Step {self.pending.steps[bad]} gave a value that is not finite ({which}) on the "
            f"batch {' and '.join(batches)}; checkpoints are from before it: go on from the last "
            "with a lower optim.lr_per_256 or run.precision no, or with a line for the clip in "
            f"{self.broken.file} (its name, a comma, why)."
        )

    def _count_broken(self, reports: Sequence[Broken]) -> None:
        for reason in self.broken.add(reports, self.is_main):
            self.warn(reason)
        self.broken.check_share()


def _peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process has had, without its workers, and on its GPU; GiB."""
    peak = {}
    if os.name == "posix":
        import resource

        unit = 2**30 if sys.platform == "darwin" else 2**20
        peak["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if device.type == "cuda":
        peak["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peak
