"""Asking a network about all pieces of a split, on one process or many; each piece once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from endofm.data.labelled.clips import EvaluationClips, Piece
from endofm.data.labelled.samples import LabelledBatch, join
from endofm.data.loading.batches import PATIENCE_SECONDS, Batches
from endofm.data.pretraining.dataset import Broken
from endofm.errors import RunError
from endofm.processes import gather_objects, num_processes
from endofm.tasks.finetuning.contract import Prediction, Task


def go_on() -> None:
    """Between two batches, where nobody asks a program to stop."""


@dataclass(frozen=True)
class Reader:
    """How the clips of a split are read: each once, divided among the processes."""

    accelerator: Accelerator
    batch_size: int
    workers: int
    patience_seconds: float = PATIENCE_SECONDS
    before_batch: Callable[[], None] = go_on
    """Called equally often by every process, whatever its share, so that it may be collective."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Clips that this process has found to hang or crash the decoder, and why: not tried again."""

    def read(self, clips: EvaluationClips) -> Iterator[LabelledBatch | list[Broken]]:
        """The batches of this process, on the CPU."""
        accelerator, size = self.accelerator, self.batch_size
        world, rank = int(accelerator.num_processes), int(accelerator.process_index)
        own = range(rank, len(clips), world)
        most = -(-len(clips) // world)  # the first process's share, which is the largest
        clips.left_out = self.left_out
        batches = Batches(
            clips,
            [list(own[i : i + size]) for i in range(0, len(own), size)],
            self.workers,
            accelerator.device.type == "cuda",
            join,
            self.patience_seconds,
        )
        try:
            for start in range(0, most, size):
                self.before_batch()
                if start < len(own):
                    yield next(batches)
        finally:
            batches.close()


@dataclass(frozen=True)
class Evaluation:
    """Answers about a split, the same on every process, and the rows that could not be judged."""

    predictions: list[Prediction]
    broken: list[Broken]


@dataclass(frozen=True)
class Evaluator:
    """How pieces are read and asked about."""

    reader: Reader
    max_broken_share: float
    features: Mapping[str, Tensor] | None = None
    """Stored features by row, instead of frames."""

    @torch.no_grad()
    def __call__(self, task: Task, pieces: Sequence[Piece]) -> Evaluation:
        """Every answer. Leaves the network in evaluation mode and takes no random numbers.

        A collective call. Raises `RunError` where too many rows can't be read.
        """
        accelerator = self.reader.accelerator
        task.network.eval()
        share_buffers(task.network)
        predictions: list[Prediction] = []
        broken: list[Broken] = []
        for batch in self.reader.read(EvaluationClips(pieces, task.clip_spec, self.features)):
            if not isinstance(batch, LabelledBatch):
                broken += batch
                continue
            broken += batch.broken
            with accelerator.autocast():
                records = task.predict(batch.to(accelerator.device))
            for number, of_piece in zip(batch.numbers, records, strict=True):
                predictions += [Prediction(number, record) for record in of_piece]
        every = gather_objects((predictions, broken))
        predictions = sorted(
            (a for part, _ in every for a in part), key=lambda prediction: prediction.piece
        )
        reasons = {item.name: item.reason for _, part in every for item in part}
        self._refuse_many(reasons, len({piece.segment.name for piece in pieces}))
        return Evaluation(predictions, [Broken(*item) for item in sorted(reasons.items())])

    def _refuse_many(self, reasons: Mapping[str, str], num_rows: int) -> None:
        if len(reasons) > self.max_broken_share * num_rows or len(reasons) == num_rows:
            raise RunError(
                f"{len(reasons)} of {num_rows} rows to be judged can't be read, more than "
                f"data.max_broken_share allows; the first: {next(iter(reasons.values()))}"
            )


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's running statistics, which data-parallel training lets
    drift apart.
    """
    if num_processes() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)
