"""Which clips training sees, and what it learns of them for the choice of later ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from endofm.data.labelled.clips import TrainingClips
from endofm.data.labelled.samples import LabelledBatch
from endofm.data.labelled.selective import (
    SegmentBank,
    SelectedClips,
    SelectivePlan,
    cut_rows,
    lag_of,
)
from endofm.data.pretraining.dataset import Corpus
from endofm.data.pretraining.loader import BatchPlan
from endofm.losses.evidential import EvidentialLoss
from endofm.processes import gather_objects
from endofm.tasks.classification.task import Classification
from endofm.tasks.finetuning.contract import Task

Learn = Callable[[Sequence[LabelledBatch], Sequence[Any]], None]
"""Takes a step's batches and the network's outputs."""


@dataclass(frozen=True)
class Sampling:
    """Clips, how they are divided into batches, and what a step teaches of them."""

    clips: TrainingClips
    plan: BatchPlan
    learn: Learn
    kept: tuple[SegmentBank, ...] = ()
    """What belongs into checkpoints."""


@dataclass(frozen=True)
class Certainty:
    """Tells a bank how certain the network was of a step's clips: 1 - u, of all processes."""

    bank: SegmentBank
    evidence: EvidentialLoss

    def __call__(self, batches: Sequence[LabelledBatch], outputs: Sequence[Any]) -> None:
        """A collective call."""
        own = []
        for batch, output in zip(batches, outputs, strict=True):
            alphas = self.evidence.alphas(output.logits.detach().float())
            certain = (1 - self.evidence.uncertainty(alphas)).tolist()
            own.append(list(zip(batch.numbers, certain, strict=True)))
        # in the order of positions: a micro-batch of every process, then the next
        micro = zip(*gather_objects(own), strict=True)
        self.bank.learn([told for parts in micro for part in parts for told in part])


def learn_nothing(batches: Sequence[LabelledBatch], outputs: Sequence[Any]) -> None:
    """Where no later choice hangs on a step."""


def make_sampling(
    corpus: Corpus,
    plan: BatchPlan,
    task: Task,
    seed: int,
    workers: int,
    features: Mapping[str, Tensor] | None,
) -> Sampling:
    """Clips from anywhere in a row, or by the policy of `data.segments`."""
    policy = task.clip_spec.data.segments
    if policy == "none":
        return Sampling(TrainingClips(corpus, task.clip_spec, seed, features), plan, learn_nothing)
    slots = cut_rows([row for part in corpus.parts for row in part])
    bank = SegmentBank(corpus, slots, policy, seed, lag_of(workers))
    clips = SelectedClips(corpus, task.clip_spec, seed, slots)
    selective = SelectivePlan(**vars(plan), bank=bank)
    evidence = task.network.evidence if isinstance(task, Classification) else None
    if policy == "random" or evidence is None:
        return Sampling(clips, selective, learn_nothing)
    return Sampling(clips, selective, Certainty(bank, evidence), (bank,))
