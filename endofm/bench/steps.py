"""One training step in its parts: ours, and the plain reference's.

Both are given a task of their own with equal weights, and do the same: forward of teacher and
student, loss, backward, clipping of every tensor, AdamW, average. `tests/bench` compares them.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.bench.clock import Clock
from endofm.bench.reference_network import plain_logits
from endofm.tasks.pretraining.endofm import CENTER_MOMENTUM, STUDENT_TEMPERATURE, PretrainingTask
from endofm.training.optim import adamw, clip_gradients, parameter_groups

PARTS = ("teacher", "student", "loss", "backward", "clipping", "optimizer", "average")
CLIP_NORM = 3.0
LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, TEACHER_TEMPERATURE = 1e-5, 0.04, 0.996, 0.04


class OurStep:
    """What `pretrain` runs, with a clock at the borders of its parts."""

    def __init__(self, task: PretrainingTask, num_global: int, clock: Clock) -> None:
        self.task, self.num_global, self.clock = task, num_global, clock
        self.optimizer = adamw(task)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE
            group["weight_decay"] = WEIGHT_DECAY if group["decays"] else 0.0
        for name in ("teacher", "student"):
            branch: nn.Module = getattr(task, name)
            branch.register_forward_pre_hook(lambda *_, name=name: clock.start(name))
            branch.register_forward_hook(lambda *_, name=name: clock.stop(name))

    def __call__(self, views: list[Tensor], precision: str) -> Tensor:
        """One step; the loss, []."""
        clock, task = self.clock, self.task
        with clock.part("forward"), autocast(clock.device, precision):
            output = task(views, self.num_global, TEACHER_TEMPERATURE)
        branches = sum(clock.seconds.get(name, 0.0) for name in ("teacher", "student"))
        clock.seconds["loss"] = clock.seconds.pop("forward") - branches
        with clock.part("backward"):
            torch.autograd.backward(output.total)
        with clock.part("clipping"):
            clip_gradients(task.student.parameters(), CLIP_NORM, "per_tensor")
        with clock.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with clock.part("average"):
            task.finish_step(MOMENTUM)
        loss: Tensor = output.total.detach()
        return loss


class PlainStep:
    """The same written for clarity; `task` only holds its weights and its centre."""

    def __init__(self, task: PretrainingTask, num_global: int, clock: Clock) -> None:
        self.task, self.num_global, self.clock = task, num_global, clock
        self.optimizer = torch.optim.AdamW(
            parameter_groups(task), lr=LEARNING_RATE, foreach=False, fused=False
        )
        for group in self.optimizer.param_groups:
            group["weight_decay"] = WEIGHT_DECAY if group["decays"] else 0.0

    def __call__(self, views: list[Tensor], precision: str) -> Tensor:
        """One step; the loss, []."""
        clock, task = self.clock, self.task
        with autocast(clock.device, precision):
            with clock.part("teacher"), torch.no_grad():
                teacher = plain_logits(task.teacher, views[: self.num_global])
            with clock.part("student"):
                student = plain_logits(task.student, views)
            with clock.part("loss"):
                loss = plain_loss(student, teacher, task.center, TEACHER_TEMPERATURE)
        with clock.part("backward"):
            torch.autograd.backward(loss)
        with clock.part("clipping"):
            plain_clipping(task.student.parameters(), CLIP_NORM)
        with clock.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with clock.part("average"):
            plain_average(task, teacher, MOMENTUM)
        return loss.detach()


def plain_loss(student: Tensor, teacher: Tensor, center: Tensor, temperature: float) -> Tensor:
    """The mean over the pairs of views, one by one: student [V, B, K], teacher [G, B, K] -> []."""
    total, num_pairs = torch.zeros((), device=student.device), 0
    for g, from_teacher in enumerate(teacher.float()):
        target = F.softmax((from_teacher - center) / temperature, dim=-1)
        for v, from_student in enumerate(student.float()):
            if v == g:
                continue  # the same view
            logs = F.log_softmax(from_student / STUDENT_TEMPERATURE, dim=-1)
            total = total + torch.sum(-target * logs, dim=-1).mean()
            num_pairs += 1
    return total / num_pairs


def plain_clipping(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Every gradient to a norm of `max_norm` at most, tensor by tensor."""
    for parameter in parameters:
        if parameter.grad is not None:
            norm = parameter.grad.norm().item()
            if norm > max_norm:
                parameter.grad.mul_(max_norm / (norm + 1e-6))


@torch.no_grad()
def plain_average(task: PretrainingTask, teacher_logits: Tensor, momentum: float) -> None:
    """The centre by the teacher's scores [G, B, K], the teacher by the student."""
    mean = teacher_logits.float().mean(dim=(0, 1), keepdim=False)
    task.center.mul_(CENTER_MOMENTUM).add_(mean, alpha=1 - CENTER_MOMENTUM)
    pairs = zip(task.teacher.parameters(), task.student.parameters(), strict=True)
    for of_teacher, of_student in pairs:
        of_teacher.mul_(momentum).add_(of_student, alpha=1 - momentum)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """`bf16` for matrix products, or float32 throughout (`no`)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
