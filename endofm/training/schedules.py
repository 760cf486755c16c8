"""Schedules as pure functions of the step. One step is one optimizer update."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer


def linear(step: int, steps: int, start: float, stop: float) -> float:
    """From `start` at step 0 to `stop` at the last of `steps` steps."""
    return start if steps < 2 else start + (stop - start) * min(step, steps - 1) / (steps - 1)


def cosine(step: int, steps: int, start: float, stop: float) -> float:
    """Half a cosine from `start` at step 0 towards `stop`, which is reached after `steps` steps."""
    if step >= steps:
        return stop
    return stop + 0.5 * (start - stop) * (1 + math.cos(math.pi * step / steps))


def warmup_cosine(
    step: int, steps: int, peak: float, final: float, warmup_steps: int, start: float = 0.0
) -> float:
    """A linear rise to `peak` over `warmup_steps`, then half a cosine to `final`."""
    if step < warmup_steps:
        return linear(step, warmup_steps, start, peak)
    return cosine(step - warmup_steps, steps - warmup_steps, peak, final)


@dataclass(frozen=True)
class ScheduleValues:
    """What holds at one step."""

    learning_rate: float
    weight_decay: float
    teacher_momentum: float
    teacher_temperature: float
    trains_last_layer: bool

    def numbers(self) -> dict[str, float]:
        """What a row of metrics tells."""
        names = ("learning_rate", "weight_decay", "teacher_momentum", "teacher_temperature")
        return {name: getattr(self, name) for name in names}

    def apply_to(self, optimizer: Optimizer) -> None:
        """Set learning rate and weight decay; groups without decay keep none."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate
            if group["weight_decay"] > 0 or group.get("decays", False):
                group["weight_decay"] = self.weight_decay


@dataclass(frozen=True)
class Schedules:
    """Everything that moves during a run, as DINO and Endo-FM's released script move it."""

    steps: int
    steps_per_epoch: int
    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    weight_decay: tuple[float, float]
    teacher_momentum: float
    teacher_temperature: tuple[float, float]
    teacher_temperature_epochs: int
    freeze_last_layer_epochs: int
    warmup_start: float = 0.0

    def at(self, step: int) -> ScheduleValues:
        """The state of all schedules at a step."""
        epoch = step // self.steps_per_epoch
        cold, warm = self.teacher_temperature
        rising = epoch < self.teacher_temperature_epochs
        return ScheduleValues(
            learning_rate=warmup_cosine(
                step,
                self.steps,
                self.learning_rate,
                self.min_learning_rate,
                self.warmup_steps,
                self.warmup_start,
            ),
            weight_decay=cosine(step, self.steps, *self.weight_decay),
            teacher_momentum=cosine(step, self.steps, self.teacher_momentum, 1.0),
            teacher_temperature=linear(epoch, self.teacher_temperature_epochs, cold, warm)
            if rising
            else warm,
            trains_last_layer=epoch >= self.freeze_last_layer_epochs,
        )
