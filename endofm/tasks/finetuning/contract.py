"""The contract between a task and the fine-tuning program: one loop serves them all.

A task holds one module, whose forward gives an output with a scalar `total`, and knows how to feed
it, how to ask it, and how to score its answers. Answers are small plain records: those of all
batches and processes are put together before anything is scored.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from endofm.data.labelled.samples import ClipSpec, Kind, LabelledBatch
from endofm.data.transforms import to_network_input
from endofm.errors import ConfigError, RunError
from endofm.losses.evidential import Form
from endofm.metrics.bootstrap import Bootstrap, Value
from endofm.models.input import InputSpec
from endofm.tasks.finetuning.trainable import Encoder

NO_INTERVALS = Bootstrap(resamples=0)
EVIDENTIAL: dict[str, Form] = {
    "evidential": "relaxed",
    "evidential_squared": "squared",
    "evidential_log": "log",
    "evidential_digamma": "digamma",
}


@dataclass(frozen=True)
class TaskConfig:
    """What is to be learned, and by which rules it is judged."""

    kind: Kind = "classification"
    """One label a row, several, a mask or boxes of every frame, or boxes helped by frames nearby.
    """
    head: Literal[
        "default",
        "mean",
        "attentive",
        "evidential",
        "evidential_squared",
        "evidential_log",
        "evidential_digamma",
        "released",
    ] = "default"
    """For classification a linear layer on the class token (default), on the mean of the patches,
    attention over all tokens, or a linear layer whose scores are evidence, by the relaxed or a
    classic loss; for segmentation a light pyramid (default) or the released design.
    """
    class_weights: tuple[float, ...] = ()
    """Weights of the classes in the loss, in their order; empty: all alike."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """Make up for rare classes by weights in the loss, or by showing them as often as the others.
    """
    positive: str = ""
    """Of two classes the one that precision, recall, F1 and AUC are of."""
    protocol: Literal["honest", "balanced_draws", "legacy_polypdiag", "legacy_cvc12k"] = "honest"
    """Choose on validation and test once; the same, but every seed draws its own balanced splits;
    or repeat a released protocol with its faults.
    """

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        is_classifier = self.kind in ("classification", "multi_label")
        if self.head in ("mean", "attentive") and not is_classifier:
            raise ConfigError(f"task.head {self.head} is for classification, not {self.kind}.")
        if self.head == "released" and self.kind != "segmentation":
            raise ConfigError(f"task.head released is for segmentation, not {self.kind}.")
        if self.evidence is not None and self.kind != "classification":
            raise ConfigError(
                f"task.head {self.head} is for classification with one label, not {self.kind}."
            )
        if self.balance != "none" and not is_classifier:
            raise ConfigError(
                f"task.balance {self.balance} counts rows and is for classification; give "
                "task.class_weights for segmentation."
            )
        if self.balance == "sampling" and self.kind == "multi_label":
            raise ConfigError(
                "task.balance sampling needs one label a row; take loss for several labels."
            )
        if self.class_weights and (self.balance == "loss" or "detection" in self.kind):
            raise ConfigError(
                "task.class_weights can't be given for detection, nor beside task.balance loss; "
                "leave one of them out."
            )
        if self.positive and self.kind != "classification":
            raise ConfigError("task.positive names one of two classes of a classification.")
        if self.draws and self.kind != "classification":
            raise ConfigError("task.protocol balanced_draws is for classification.")

    @property
    def evidence(self) -> Form | None:
        """Which evidential loss the head has, if one."""
        return EVIDENTIAL.get(self.head)

    @property
    def is_legacy(self) -> bool:
        """Whether the best epoch is chosen on the test rows, as the released code does."""
        return self.protocol.startswith("legacy")

    @property
    def draws(self) -> bool:
        """Whether every seed draws training, validation and test rows of its own."""
        return self.protocol == "balanced_draws"


@dataclass(frozen=True)
class Prediction:
    """A record about the piece of that number; the order of pieces doesn't depend on processes."""

    piece: int
    record: Any


@dataclass(frozen=True)
class Figures:
    """What a split's answers come to."""

    values: Mapping[str, Value]
    unit: str
    """What the figures count: groups, files, rows or frames."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Tables beside them, ready for JSON."""

    def choice(self, name: str) -> float:
        """The figure that checkpoints are chosen by; raises `RunError` where it is not defined."""
        figure = self.values[name]
        if figure.value is None:
            raise RunError(
                f"Checkpoints are chosen by {name} on validation, which is not defined there "
                f"({figure.reason}); give more validation rows, with every class."
            )
        return figure.value


class Task(ABC):
    """A network with its loss, and what the program has to know about it."""

    selects_by: str
    """The figure that checkpoints are chosen by; higher is better."""

    def __init__(self, network: nn.Module, encoder: Encoder, clip_spec: ClipSpec) -> None:
        self.network = network
        self.encoder = encoder
        self.clip_spec = clip_spec

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in order."""
        return self.clip_spec.classes

    def clip(self, batch: LabelledBatch) -> Tensor:
        """A batch's frames as the network wants them: float32 [B V, 3, T, P, P], on its device."""
        return network_clip(batch, self.encoder.input_spec)

    def begin(self, epoch: float) -> None:
        """Set what of the loss hangs on the moment of training; nothing, for most."""
        return

    @abstractmethod
    def inputs(self, batch: LabelledBatch) -> tuple[Any, ...]:
        """The arguments of the network's forward, from a batch on its device."""

    @abstractmethod
    def scalars(self, output: Any) -> dict[str, Tensor]:
        """What the log tells of an output; `loss` first."""

    @abstractmethod
    def predict(self, batch: LabelledBatch) -> list[Any]:
        """A list of records for each sample of a batch, in evaluation mode."""

    @abstractmethod
    def score(self, predictions: Iterable[Prediction], bootstrap: Bootstrap) -> Figures:
        """The figures of a split, from the records of all batches and processes."""

    @abstractmethod
    def output(self, clip: Tensor) -> Tensor:
        """The network's scores of a normalised clip [1, 3, T, P, P]: what a folder refers to."""


def network_clip(batch: LabelledBatch, spec: InputSpec) -> Tensor:
    """uint8 frames and their colour maps -> float32 [B V, 3, T, P, P], normalised."""
    device = batch.frames.device
    if type(spec) is InputSpec:
        mean, std = (torch.tensor(values, device=device) for values in (spec.mean, spec.std))
        return to_network_input(batch.frames, batch.colors, mean, std)
    nothing, one = torch.zeros(3, device=device), torch.ones(3, device=device)
    colored = to_network_input(batch.frames, batch.colors, nothing, one)
    return spec.normalize((colored * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1))


def in_order(predictions: Iterable[Prediction]) -> list[Any]:
    """Records by piece, whatever process they come from."""
    return [prediction.record for prediction in sorted(predictions, key=lambda one: one.piece)]
