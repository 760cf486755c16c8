"""Batches of views in a run's order, for one process of many."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from endofm.data.loading.batches import PATIENCE_SECONDS, Batches
from endofm.data.loading.workers import Clips, Join
from endofm.data.pretraining.dataset import Broken, Sample


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

    def walk(self, first: int, stop: int) -> Iterator[list[int]]:
        """Positions, micro-batch by micro-batch, from step `first` up to but without `stop`."""
        for step in range(first, stop):
            for micro in range(self.accumulate):
                yield self.positions(step, micro)


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
    dataset: Clips[Any],
    plan: BatchPlan,
    first: int,
    stop: int,
    workers: int,
    pin_memory: bool,
    join: Join = collate,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Batches:
    """The micro-batches of steps `first` to `stop`; `join` makes one of its samples."""
    walk = plan.walk(first, stop)
    return Batches(dataset, walk, workers, pin_memory, join, patience_seconds)
