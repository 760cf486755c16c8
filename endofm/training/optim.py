"""The optimizer, its weight-decay groups, and two ways to clip gradients."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.training.sharding import local, whole

Clipping = Literal["per_tensor", "global", "none"]


@dataclass(frozen=True)
class OptimConfig:
    """How long and how fast weights move."""

    epochs: float = 30
    """Passes over the corpus."""
    batch_size: int = 3
    """Clips of a process at a time."""
    accumulate: int = 1
    """Batches of a process that make one step."""
    lr_per_256: float = 5e-4
    """Learning rate for 256 clips a step; scaled by the clips a step really has."""
    warmup_epochs: float = 10
    """Epochs over which the learning rate (and the teacher's temperature) rise."""
    weight_decay: tuple[float, float] = (0.04, 0.4)
    """Weight decay at the start and at the end, on a cosine; none on biases and 1-D tensors."""
    clip_norm: float = 3.0
    """Largest gradient norm."""
    clipping: Clipping = "global"
    """Bound the norm of all gradients together, or of every tensor by itself (as released)."""
    freeze_last_layer_epochs: float = 1
    """Epochs in which the head's last layer stays as it is."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        check_length(self.epochs, self.batch_size, self.accumulate, self.warmup_epochs)
        if self.lr_per_256 <= 0 or self.clip_norm <= 0 or min(self.weight_decay) < 0:
            raise ConfigError(
                f"optim.lr_per_256 {self.lr_per_256} and optim.clip_norm {self.clip_norm} must be "
                f"above 0, optim.weight_decay {list(self.weight_decay)} at least 0."
            )
        if self.freeze_last_layer_epochs < 0:
            raise ConfigError(
                f"optim.freeze_last_layer_epochs is {self.freeze_last_layer_epochs}; give 0 or "
                "more."
            )


def check_length(epochs: float, batch_size: int, accumulate: int, warmup_epochs: float) -> None:
    """Raise `ConfigError` for a run that can't be so long, in the words of both programs."""
    if not 0 < epochs < math.inf:
        raise ConfigError(f"optim.epochs is {epochs}; give a finite number above 0.")
    if batch_size < 1 or accumulate < 1:
        raise ConfigError(
            f"optim.batch_size {batch_size} and optim.accumulate {accumulate} must both be above 0."
        )
    if not 0 <= warmup_epochs <= epochs:
        raise ConfigError(
            f"optim.warmup_epochs is {warmup_epochs}; give 0 to optim.epochs ({epochs})."
        )


def parameter_groups(module: nn.Module) -> list[dict[str, object]]:
    """Trainable parameters in two groups: with weight decay, and without (biases, 1-D tensors)."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [
        {"params": decayed, "decays": True},
        {"params": plain, "decays": False, "weight_decay": 0.0},
    ]


def adamw(module: nn.Module) -> torch.optim.AdamW:
    """AdamW (betas 0.9, 0.999; eps 1e-8); learning rate and decay come from the schedules."""
    return torch.optim.AdamW(parameter_groups(module), lr=0.0, fused=True)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, clipping: Clipping) -> Tensor:
    """Scale gradients down to `max_norm` and return their total norm before that, [].

    `per_tensor` bounds every parameter's gradient by itself, as Endo-FM's released code does;
    `global` bounds the norm of all together; `none` only measures. A norm is that of the whole
    tensor also where every process holds a slice. Nothing is read back from the device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = whole(torch.stack([gradient.norm() for gradient in gradients]))
    total: Tensor = norms.norm()
    if clipping == "per_tensor":
        scales = (max_norm / (norms + 1e-6)).clamp_max(1.0)
        for gradient, scale in zip(gradients, scales, strict=True):
            local(gradient).mul_(scale)
    elif clipping == "global":
        scale = (max_norm / (total + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            local(gradient).mul_(scale)
    return total
