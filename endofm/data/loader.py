"""Batches of views in a run's order, for one process of many."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from endofm.data.dataset import Broken, Sample


@dataclass
class Batch:
    """Views of B clips: for every view pixels uint8 [B, T, H, W, 3] and colour maps [B, 3, 4]."""

    frames: list[Tensor]
    colors: list[Tensor]
    names: list[str]
    broken: list[Broken]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return replace(
            self,
            frames=[view.to(device, non_blocking=True) for view in self.frames],
            colors=[color.to(device, non_blocking=True) for color in self.colors],
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies while it computes."""
        return replace(
            self,
            frames=[view.pin_memory() for view in self.frames],
            colors=[color.pin_memory() for color in self.colors],
        )


@dataclass(frozen=True)
class BatchPlan:
    """How a step's clips are divided: `accumulate` micro-batches of `batch_size` on `world`
    processes.

    A step takes `global_batch` positions in a row, whatever the number of processes: a run that
    moves to another number with the same global batch goes on with the same clips in every step.
    """

    batch_size: int
    accumulate: int
    rank: int
    world: int

    @property
    def global_batch(self) -> int:
        """Clips of one optimizer step over all processes."""
        return self.batch_size * self.accumulate * self.world

    def positions(self, step: int, micro: int) -> list[int]:
        """Positions of the run that this process sees in a micro-batch of a step."""
        first = step * self.global_batch + (micro * self.world + self.rank) * self.batch_size
        return list(range(first, first + self.batch_size))


class StepSampler(Sampler[list[int]]):
    """Positions, micro-batch by micro-batch, from step `first` up to but without `stop`."""

    def __init__(self, plan: BatchPlan, first: int, stop: int) -> None:
        """Steps `first` to `stop` of `plan`."""
        self.plan, self.first, self.stop = plan, first, stop

    def __iter__(self) -> Iterator[list[int]]:
        """Micro-batches in order."""
        for step in range(self.first, self.stop):
            for micro in range(self.plan.accumulate):
                yield self.plan.positions(step, micro)

    def __len__(self) -> int:
        """Micro-batches in all."""
        return (self.stop - self.first) * self.plan.accumulate


def collate(samples: list[Sample]) -> Batch:
    """Samples to a batch, view by view."""
    by_view = list(zip(*(sample.views for sample in samples), strict=True))
    return Batch(
        frames=[torch.stack([view.frames for view in views]) for views in by_view],
        colors=[torch.stack([view.color for view in views]) for views in by_view],
        names=[sample.name for sample in samples],
        broken=[broken for sample in samples for broken in sample.broken],
    )


def make_loader(
    dataset: Dataset[Any],
    plan: BatchPlan,
    first: int,
    stop: int,
    workers: int,
    pin_memory: bool,
    join: Callable[[list[Any]], Any] = collate,
) -> "DataLoader[Any]":
    """A loader of the micro-batches of steps `first` to `stop`; `join` makes one of its samples.

    It has a random generator of its own, so that making it leaves the network's random numbers
    alone. OpenCV works in one thread from here on: a worker forked beside its threads hangs.
    """
    return load(dataset, StepSampler(plan, first, stop), workers, pin_memory, join)


def load(
    dataset: Dataset[Any],
    batches: Sampler[list[int]] | Sequence[list[int]],
    workers: int,
    pin_memory: bool,
    join: Callable[[list[Any]], Any],
) -> "DataLoader[Any]":
    """A loader of the given batches of numbers; see `make_loader`."""
    if workers:
        cv2.setNumThreads(1)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=join,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    """More threads in a worker only take time from the others; signals are for the main process.

    A terminal or scheduler signals the whole group: a worker that died of it would end the run
    before it has saved. Workers end with the main process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
