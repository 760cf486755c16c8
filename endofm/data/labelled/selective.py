"""Selective sampling: which part of a video training sees, by how certain the network was of it.

Every row is cut in slots of 20 frames, and a bank holds a certainty for each (STFM, arXiv
2606.17437). The training process chooses a clip's slot when it asks for the clip and sends it along
with the position, so that worker processes see what was learned after they started. They are asked
for some batches ahead: a choice goes by the bank as it was `lag` steps before its step, in a run
that went on from a checkpoint as in one that did not stop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from endofm.data.labelled.clips import TrainingClips, clip_length, training_sample
from endofm.data.labelled.samples import ClipSpec, LabelledSample
from endofm.data.loading.batches import AHEAD
from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Corpus, SampleOrder
from endofm.data.pretraining.loader import BatchPlan
from endofm.data.pretraining.views import view_rng
from endofm.errors import RunError, VideoError

SLOT_FRAMES = 20
START = -0.1
"""A slot's certainty before the network has seen it."""
KEPT = 0.7
"""Share of the old certainty that stays when a new one comes."""
RANDOM_EPOCHS = 5
RANDOM_SHARE = 0.2
"""Chance of a random slot in later epochs."""

Values = npt.NDArray[np.float64]
Policy = Literal["random", "most_certain", "least_certain"]


class Slots:
    """The parts of rows, numbered over all of them; a row's last part may be shorter."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        """Cut rows of so many frames, by name."""
        self.of_rows: dict[str, range] = {}
        self.total = 0
        for name, length in lengths.items():
            count = max(1, -(-length // SLOT_FRAMES))
            self.of_rows[name] = range(self.total, self.total + count)
            self.total += count

    def frames(self, name: str, slot: int, length: int) -> range:
        """A slot's frames, from the start of a row of `length` frames."""
        start = (slot - self.of_rows[name].start) * SLOT_FRAMES
        return range(start, min(start + SLOT_FRAMES, length))


def cut_rows(segments: Sequence[Segment]) -> Slots:
    """Slots of rows. Opens files only where a row leaves its end open; one that can't be opened is
    one slot, and is reported when it is read.
    """
    lengths = {}
    for segment in segments:
        try:
            lengths[segment.name] = clip_length(segment)
        except VideoError:
            lengths[segment.name] = SLOT_FRAMES
    return Slots(lengths)


class Asked(int):
    """A position of a run, and the slot that its clip is to be of."""

    slot: int

    def __new__(cls, position: int, slot: int) -> "Asked":
        """A position that knows its slot."""
        made = super().__new__(cls, position)
        made.slot = slot
        return made

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        """What a worker makes it anew from."""
        return int(self), self.slot


class SelectedClips(TrainingClips):
    """Training clips around a random frame of the slot that was asked for.

    Samples tell their slot as `number`. A clip in the place of a broken one is of a random slot.
    """

    def __init__(self, corpus: Corpus, clip_spec: ClipSpec, seed: int, slots: Slots) -> None:
        """Rows of `corpus`, cut in `slots`, in the order of `seed`."""
        super().__init__(corpus, clip_spec, seed)
        self.slots = slots

    def _read(self, segment: Segment, epoch: int, position: int) -> LabelledSample:
        self.begin(segment.name)
        rng = view_rng(self.seed, epoch, segment.key)
        choices = self.slots.of_rows[segment.name]
        asked = position.slot if isinstance(position, Asked) else -1
        slot = asked if asked in choices else int(rng.choice(choices))

        def within(length: int) -> range:
            return self.slots.frames(segment.name, slot, length)

        return training_sample(segment, self.clip_spec, rng, within)._replace(number=slot)


class SegmentBank:
    """Certainties of slots, and the choice by them; part of a run's checkpoints.

    Every process of a run has the same one, since each learns what all have seen.
    """

    def __init__(self, corpus: Corpus, slots: Slots, policy: Policy, seed: int, lag: int) -> None:
        """Choose for the run of `seed`; `lag` steps may be asked for ahead."""
        self.parts, self.order = corpus.parts, SampleOrder(corpus, seed)
        self.slots, self.policy, self.seed, self.lag = slots, policy, seed, lag
        self.steps = 0
        self.values = np.full(slots.total, START)  # what steps up to `steps - lag` have taught
        self.recent: list[list[tuple[int, float]]] = []  # and later ones, step by step

    def learn(self, certainties: Sequence[tuple[int, float]]) -> None:
        """Note what a step has shown: slots with the network's certainty, in the step's order."""
        self.steps += 1
        self.recent.append(list(certainties))
        while len(self.recent) > self.lag:
            _move(self.values, self.recent.pop(0))

    def choose(self, step: int, position: int) -> int:
        """The slot of the clip at a position of the run, in a step that may lie ahead.

        Random in the first epochs and now and then later, else the one that the policy wants;
        among equals at random. A function of seed, position and what was learned.
        """
        place = self.order.at(position)
        segment = self.parts[place.part][place.row]
        slots = self.slots.of_rows[segment.name]
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, position, 2)))
        is_random = self.policy == "random" or position // self.order.epoch_length < RANDOM_EPOCHS
        if rng.random() < RANDOM_SHARE or is_random:
            return int(rng.choice(slots))
        values = self._values_for(step, slots)
        wanted = values.max() if self.policy == "most_certain" else values.min()
        return slots[int(rng.choice(np.flatnonzero(values == wanted)))]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        values = torch.from_numpy(self.values.copy())
        return {"steps": self.steps, "values": values, "recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; raises `RunError` for one of rows that were cut otherwise."""
        values = state["values"].numpy()
        if values.shape != self.values.shape:
            raise RunError(
                f"The checkpoint's videos had {len(values)} parts of {SLOT_FRAMES} frames, and "
                f"these have {len(self.values)}; bring them back, or give another --run.out."
            )
        self.steps, self.values = int(state["steps"]), values.copy()
        self.recent = [
            [(int(slot), float(value)) for slot, value in one] for one in state["recent"]
        ]

    def _values_for(self, step: int, slots: range) -> Values:
        """Certainties of a row's slots as steps before `step - lag` have left them."""
        known = step - self.lag - (self.steps - len(self.recent))
        if known > len(self.recent):
            raise RunError(
                f"Step {step} was asked for when {self.steps} were done, more than {self.lag} "
                "ahead; this is a fault of endofm, please report it."
            )
        values = self.values[slots.start : slots.stop].copy()
        for told in self.recent[: max(0, known)]:
            _move(values, [(slot - slots.start, value) for slot, value in told if slot in slots])
        return values


def _move(values: Values, told: Sequence[tuple[int, float]]) -> None:
    for slot, certainty in told:
        values[slot] = KEPT * values[slot] + (1 - KEPT) * certainty


@dataclass(frozen=True)
class SelectivePlan(BatchPlan):
    """A `BatchPlan` whose positions know their slots, chosen when they are asked for."""

    bank: SegmentBank

    def walk(self, first: int, stop: int) -> Iterator[list[int]]:
        """As `BatchPlan.walk`, of `Asked`."""
        for step in range(first, stop):
            for micro in range(self.accumulate):
                positions = self.positions(step, micro)
                yield [Asked(one, self.bank.choose(step, one)) for one in positions]


def lag_of(workers: int) -> int:
    """Steps that so many worker processes may be asked for before they are due, at most."""
    return AHEAD * workers
