"""The optimizer, schedule and choice of the best checkpoint of a fine-tuning run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from endofm.errors import ConfigError, RunError
from endofm.files import new_file
from endofm.training.optim import check_length
from endofm.training.schedules import warmup_cosine

MIN_LEARNING_RATE = 1e-6
POLY_POWER = 0.9


@dataclass(frozen=True)
class TuneOptimConfig:
    """How long and how fast weights move."""

    epochs: float = 20
    """Passes over the training rows."""
    batch_size: int = 4
    """Clips of a process at a time."""
    accumulate: int = 1
    """Batches of a process that make one step."""
    kind: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    lr_per_256: float = 1e-3
    """Learning rate for 256 clips a step; scaled by the clips a step really has."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises; a cosine follows."""
    weight_decay: float = 0.05
    """Weight decay; none on biases and 1-D tensors."""
    clip_norm: float = 3.0
    """Largest norm of all gradients together; 0: not bounded."""
    patience: int = 0
    """Stop after so many validations in a row without a better one; 0: never."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        check_length(self.epochs, self.batch_size, self.accumulate, self.warmup_epochs)
        if self.lr_per_256 <= 0 or min(self.clip_norm, self.weight_decay, self.patience) < 0:
            raise ConfigError(
                f"optim.lr_per_256 {self.lr_per_256} must be above 0, optim.clip_norm "
                f"{self.clip_norm}, optim.weight_decay {self.weight_decay} and optim.patience "
                f"{self.patience} at least 0."
            )


@dataclass(frozen=True)
class TuneValues:
    """What holds at one step."""

    learning_rate: float
    weight_decay: float
    epoch: float
    """Passes over the training rows so far."""

    def numbers(self) -> dict[str, float]:
        """What a row of metrics tells."""
        return {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}

    def apply_to(self, optimizer: Optimizer) -> None:
        """Set every group's learning rate, by its own scale."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * group["scale"]


@dataclass(frozen=True)
class TuneSchedule:
    """The learning rate as a pure function of the step."""

    steps: int
    steps_per_epoch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    is_poly: bool = False
    """(1 - step / steps) ** 0.9 without a warm-up, as released for segmentation."""

    def at(self, step: int) -> TuneValues:
        """The state at a step."""
        if self.is_poly:
            rate = self.learning_rate * (1 - step / self.steps) ** POLY_POWER
        else:
            least = min(MIN_LEARNING_RATE, self.learning_rate)
            start = self.learning_rate / (self.warmup_steps + 1)
            rate = warmup_cosine(
                step, self.steps, self.learning_rate, least, self.warmup_steps, start
            )
        return TuneValues(rate, self.weight_decay, step / self.steps_per_epoch)


def make_optimizer(
    kind: Literal["adamw", "sgd"], groups: Sequence[dict[str, Any]], weight_decay: float
) -> Optimizer:
    """An optimizer of groups that each have `scale` and `decays`."""
    ready = [
        {**group, "weight_decay": weight_decay if group["decays"] else 0.0} for group in groups
    ]
    if kind == "sgd":
        return torch.optim.SGD(ready, lr=0.0, momentum=0.9)
    return torch.optim.AdamW(ready, lr=0.0, fused=True)


class Unwatched:
    """In the place of the collapse watch: supervised training has its validation."""

    def health(self) -> None:
        """Nothing."""


class Selection:
    """Which weights have been best on validation so far; part of a run's checkpoints."""

    def __init__(self, file: Path, patience: int, is_main: bool) -> None:
        """Keep the best weights in `file`."""
        self.file, self.patience, self.is_main = file, patience, is_main
        self.best = float("-inf")
        self.best_step = 0
        self.since = 0
        self.judged_step = 0

    def update(self, step: int, score: float, network: nn.Module) -> bool:
        """Take a validation's score (higher is better); keep the weights if they are the best."""
        self.judged_step = step
        if not score > self.best:  # nor if it is no number
            self.since += 1
            return False
        self.best, self.best_step, self.since = score, step, 0
        if self.is_main:
            tensors = {
                name: tensor.detach().cpu().contiguous().clone()
                for name, tensor in network.state_dict().items()
            }
            way_out = "make room, and the same command resumes from the last checkpoint"
            with new_file(self.file, way_out) as part:
                save_file(tensors, part, metadata={"step": str(step)})
        return True

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough for a better one."""
        return 0 < self.patience <= self.since

    def load_best(self, network: nn.Module) -> None:
        """Give the network the best weights."""
        try:
            tensors = load_file(self.file)
        except Exception as error:
            raise RunError(
                f"The best weights can't be read from {self.file} ({error}); delete the run's "
                "folder and start it again."
            ) from error
        network.load_state_dict(tensors)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        names = ("best", "best_step", "since", "judged_step")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
