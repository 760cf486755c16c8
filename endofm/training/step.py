"""One optimizer update from one or several micro-batches."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from endofm.errors import RunError

MAX_SKIPPED = 50
"""Halvings of the loss scale in a row after which a float16 run has no gradient left to scale."""


def optimize(
    accelerator: Accelerator,
    task: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Any],
    forward: Callable[[Any], Any],
    finish_gradients: Callable[[], Tensor],
    forget: Callable[[], None],
) -> tuple[list[Any], Tensor]:
    """Forward and backward over `batches`, then one update; the outputs, and the gradient norm [].

    `forward(batch)` gives an output with a scalar `total`; `finish_gradients()` clips and returns
    the norm. If float16 overflows, the step is tried again on the same batches with a smaller loss
    scale (after `forget()`), so that a step is always one update and always the same clips.
    """
    for _ in range(MAX_SKIPPED):
        scale = loss_scale(accelerator)
        outputs = []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(task):
                output = forward(batch)
                accelerator.backward(output.total / len(batches))
            outputs.append(output)
        if accelerator.mixed_precision == "fp16":
            accelerator.unscale_gradients(optimizer)
        norm = finish_gradients()
        optimizer.step()
        optimizer.zero_grad()
        if loss_scale(accelerator) >= scale:
            return outputs, norm
        forget()
    raise RunError(
        f"Gradients overflow float16 even after {MAX_SKIPPED} halvings of the loss scale; use "
        "--run.precision bf16 or no."
    )


def loss_scale(accelerator: Accelerator) -> float:
    """The factor of float16 losses, lowered by every update that was skipped; 1 without float16.

    Accelerate's `optimizer_step_was_skipped` can't tell: a fused optimizer is called all the same
    and skips the update itself.
    """
    return float(accelerator.scaler.get_scale()) if accelerator.scaler is not None else 1.0
