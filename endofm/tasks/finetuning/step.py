"""One optimizer update of a fine-tuning run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from endofm.data.labelled.samples import LabelledBatch
from endofm.tasks.finetuning.contract import Task
from endofm.tasks.finetuning.selecting import Learn
from endofm.training.finetuning import TuneValues
from endofm.training.optim import Clipping, clip_gradients
from endofm.training.step import optimize


@dataclass(frozen=True)
class TuneStep:
    """One update of a task's network, as accelerate has prepared it."""

    accelerator: Accelerator
    prepared: nn.Module  # the task's network, in a run of many processes a wrapper around it
    task: Task
    optimizer: Optimizer
    clip_norm: float
    learn: Learn
    """What of the outputs matters to the choice of later clips."""

    def __call__(self, batches: Sequence[LabelledBatch], now: TuneValues) -> dict[str, Tensor]:
        """Forward, loss, backward, clipping, optimizer; means over batches, on the device."""
        now.apply_to(self.optimizer)
        self.task.begin(now.epoch)

        def forward(batch: LabelledBatch) -> Any:
            return self.prepared(*self.task.inputs(batch.to(self.accelerator.device)))

        def finish_gradients() -> Tensor:
            trained = [p for p in self.task.network.parameters() if p.requires_grad]
            clipping: Clipping = "global" if self.clip_norm else "none"
            return clip_gradients(trained, self.clip_norm, clipping)

        outputs, norm = optimize(
            self.accelerator,
            self.prepared,
            self.optimizer,
            batches,
            forward,
            finish_gradients,
            lambda: None,
        )
        self.learn(batches, outputs)
        told = [self.task.scalars(output) for output in outputs]
        means = {name: torch.stack([one[name] for one in told]).mean() for name in told[0]}
        return {**means, "gradient_norm": norm}
