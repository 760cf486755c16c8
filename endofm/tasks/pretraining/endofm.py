"""Endo-FM's objective around a backbone: a student matches its own average on views of a clip.

Wang et al.: Foundation Model for Endoscopy Video Analysis via Large-scale Self-supervised Pre-train
(MICCAI 2023). The order of a step is the released one: forward, loss, backward, clipping,
optimizer, then the teacher's average; the centre moves with the teacher's outputs of the step.
"""

import copy
import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from endofm.data.pretraining.loader import Batch
from endofm.data.pretraining.views import STATISTICS, ViewsConfig
from endofm.data.transforms import to_network_input
from endofm.errors import ConfigError
from endofm.heads.projection import ProjectionHead
from endofm.losses.dino import centered_targets, dino_loss, koleo_loss, sinkhorn_targets
from endofm.models.build import ModelConfig, build_backbone, initialize
from endofm.models.timesformer import Block, TimeSformer
from endofm.processes import num_processes, sum_over_processes
from endofm.tasks.pretraining.vcl import ConceptBranch, ConceptTask
from endofm.training.monitor import entropy
from endofm.training.optim import OptimConfig, clip_gradients
from endofm.training.schedules import ScheduleValues
from endofm.training.sharding import local, refuse_sharding
from endofm.training.step import optimize

CENTER_MOMENTUM = 0.9
STUDENT_TEMPERATURE = 0.1


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the student has to match."""

    kind: Literal["endofm", "endofm_small", "vcl"] = "endofm"
    """Endo-FM's, with its projection head (hidden 2048, bottleneck 256) or with one for small
    networks and short runs (256 and 64, its input standardised over the clips that pass it at once
    in all processes); or the concepts of VCL, for which only `prototypes` and `teacher_momentum` of
    the options below count.
    """
    prototypes: int = 65536
    """Outputs of the projection head (K), or concepts of each kind."""
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    """Temperature of the teacher's targets: at the start, and from the end of the warm-up on."""
    teacher_momentum: float = 0.996
    """Momentum of the teacher's average at the start; rises to 1 on a cosine."""
    centering: Literal["center", "sinkhorn"] = "center"
    """Keep prototypes in use by a running centre, or by Sinkhorn-Knopp on the clips that are shown
    at once in all processes.
    """
    koleo_weight: float = 0.0
    """Weight of the KoLeo regulariser on the student's global features (DINOv2 takes 0.1), over the
    clips that are shown at once in all processes.
    """

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.prototypes < 2:
            raise ConfigError(f"objective.prototypes is {self.prototypes}; give at least 2.")
        if min(self.teacher_temperature) <= 0:
            raise ConfigError(
                f"objective.teacher_temperature is {list(self.teacher_temperature)}; both are "
                f"above 0."
            )
        if not 0 <= self.teacher_momentum <= 1:
            raise ConfigError(
                f"objective.teacher_momentum is {self.teacher_momentum}; give 0 to 1."
            )
        if self.koleo_weight < 0:
            raise ConfigError(f"objective.koleo_weight is {self.koleo_weight}; give 0 or more.")


class PretrainingOutput(NamedTuple):  # FSDP looks for tensors in tuples
    """A forward pass: scalars to minimise and to watch, and what the monitor looks at."""

    total: Tensor
    cross_view: Tensor
    dynamic: Tensor
    koleo: Tensor
    features: Tensor  # [G B, D], the teacher's
    target_entropy: Tensor  # [], nats
    target_mean: Tensor  # [K]

    def scalars(self) -> dict[str, Tensor]:
        """What the log shows."""
        names = ("cross_view", "dynamic", "koleo", "target_entropy")
        return {"loss": self.total, **{name: getattr(self, name) for name in names}}


class Branch(nn.Module):
    """A backbone with its projection head: what is called student, and teacher."""

    def __init__(self, backbone: TimeSformer, head: ProjectionHead) -> None:
        """Join the two."""
        super().__init__()
        self.backbone: TimeSformer = backbone
        self.head: ProjectionHead = head

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Clips [B, 3, T, H, W], view by view -> features [V, B, D] and logits [V, B, K].

        All views pass the backbone together, those of equal shape as one batch; then the head.
        """
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for number, view in enumerate(views):
            by_shape[view.shape].append(number)
        order = [number for numbers in by_shape.values() for number in numbers]
        together = [torch.cat([views[n] for n in numbers]) for numbers in by_shape.values()]
        features = self.backbone(*together).unflatten(0, (len(views), -1))
        rows = torch.stack([features[order.index(number)] for number in range(len(views))])
        return rows, self.head(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


class PretrainingTask(nn.Module):
    """Student, teacher, centre and loss: one forward a micro-batch, `finish_step` once a step."""

    def __init__(
        self,
        backbone: TimeSformer,
        head: ProjectionHead,
        config: ObjectiveConfig,
        teacher_drops_paths: bool = False,
    ) -> None:
        """The teacher starts as a copy of the student made of `backbone` and `head`.

        Drop path acts in it too with `teacher_drops_paths`, as in the released code.
        """
        super().__init__()
        self.config = config
        self.teacher_drops_paths = teacher_drops_paths
        self.student: Branch = Branch(backbone, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        num_prototypes = head.last_layer.weight_v.shape[0]
        self.register_buffer("center", torch.zeros(1, num_prototypes))
        self.register_buffer("_moved", torch.zeros(1, num_prototypes), persistent=False)
        self.center: Tensor
        self._moved: Tensor
        self._num_moved = 0
        # accelerate's name for what FSDP keeps together
        kept = (Block, ProjectionHead)
        self._no_split_modules = sorted(
            {type(module).__name__ for module in self.modules() if isinstance(module, kept)}
        )
        self.train()

    def train(self, mode: bool = True) -> "PretrainingTask":
        """Training mode; the teacher follows only where drop path acts in it."""
        super().train(mode)
        self.teacher.train(mode and self.teacher_drops_paths)
        return self

    def forward(
        self, views: list[Tensor], num_global: int, teacher_temperature: float
    ) -> PretrainingOutput:
        """Losses of a micro-batch: `views` [B, 3, T, H, W] each, globals first."""
        with torch.no_grad():
            teacher_features, teacher_logits = self.teacher(views[:num_global])
            targets = self._targets(teacher_logits, teacher_temperature)
            self._moved += teacher_logits.float().mean(dim=(0, 1))
            self._num_moved += 1
        features, logits = self.student(views)
        with torch.autocast(logits.device.type, enabled=False):  # sums over K in float32
            loss = dino_loss(logits, targets, STUDENT_TEMPERATURE)
            koleo = loss.total.new_zeros(())
            if self.config.koleo_weight:
                koleo = torch.stack([koleo_loss(view) for view in features[:num_global]]).mean()
        return PretrainingOutput(
            total=loss.total + self.config.koleo_weight * koleo,
            cross_view=loss.cross_view,
            dynamic=loss.dynamic,
            koleo=koleo.detach(),
            features=teacher_features.flatten(0, 1),
            target_entropy=entropy(targets).mean(),
            target_mean=targets.mean(dim=(0, 1)),
        )

    def _targets(self, logits: Tensor, temperature: float) -> Tensor:
        if self.config.centering == "sinkhorn":
            return sinkhorn_targets(logits, temperature)
        return centered_targets(logits, self.center, temperature)

    def compile_backbones(self) -> None:
        """Compile student and teacher in place; parameter names stay."""
        self.student.backbone.compile()
        self.teacher.backbone.compile()

    def drop_last_layer_gradient(self) -> None:
        """As if the last layer were not there: no update, no decay, no optimizer state."""
        for parameter in self.student.head.last_layer.parameters():
            parameter.grad = None

    @torch.no_grad()
    def finish_step(self, momentum: float) -> None:
        """After the optimizer: move the centre by its outputs, the teacher to the student."""
        total = sum_over_processes(self._moved) / (self._num_moved * num_processes())
        self.center.lerp_(total, 1 - CENTER_MOMENTUM)
        self.forget_step()
        # a slice of the average is the average of the slices: both are divided alike
        teacher, student = (
            [local(parameter.detach()) for parameter in branch.parameters()]
            for branch in (self.teacher, self.student)
        )
        torch._foreach_lerp_(teacher, student, 1 - momentum)

    def forget_step(self) -> None:
        """Take back what the forward passes of this step would have done to the centre."""
        self._moved.zero_()
        self._num_moved = 0


@dataclass(frozen=True)
class PretrainingStep:
    """One optimizer update of a task, as accelerate has prepared it."""

    accelerator: Accelerator
    task: nn.Module  # prepared; in a run of many processes a wrapper around `core`
    core: PretrainingTask | ConceptTask
    optimizer: Optimizer
    views: ViewsConfig
    optim: OptimConfig

    def __call__(
        self, batches: Sequence[Batch], now: ScheduleValues
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """Forward, loss, backward, clipping, optimizer, centre and teacher, in this order.

        Returns the outputs of every micro-batch and scalars for the log, all still on the device.
        """
        now.apply_to(self.optimizer)
        num_global = len(self.views.global_frames)

        def forward(batch: Batch) -> Any:
            views = network_views(batch, self.views, self.accelerator.device)
            with self.accelerator.autocast():  # FSDP's wrapper has none of its own
                return self.task(views, num_global, now.teacher_temperature)

        def finish_gradients() -> Tensor:
            if not now.trains_last_layer:
                self.core.drop_last_layer_gradient()
            student = self.core.student.parameters()
            return clip_gradients(student, self.optim.clip_norm, self.optim.clipping)

        outputs, norm = optimize(
            self.accelerator,
            self.task,
            self.optimizer,
            batches,
            forward,
            finish_gradients,
            self.core.forget_step,
        )
        self.core.finish_step(now.teacher_momentum)
        told = [{name: s.detach() for name, s in one.scalars().items()} for one in outputs]
        means = {name: torch.stack([one[name] for one in told]).mean() for name in told[0]}
        return outputs, {**means, "gradient_norm": norm}


def build_task(
    model: ModelConfig, views: ViewsConfig, objective: ObjectiveConfig
) -> tuple[PretrainingTask | ConceptTask, str]:
    """The task with its starting weights, and a sentence on where they come from."""
    student = build_student(model, views, objective)
    if isinstance(student, ConceptBranch):
        refuse_sharding("objective.kind vcl", "it asks parts of the network by themselves")
        return ConceptTask(student), initialize(student.backbone, None, model.init_from)
    origin = initialize(student.backbone, student.head, model.init_from)
    drops_paths = views.quirks == "released"
    task = PretrainingTask(student.backbone, student.head, objective, drops_paths)
    return task, origin


def build_student(
    model: ModelConfig, views: ViewsConfig, objective: ObjectiveConfig
) -> Branch | ConceptBranch:
    """Backbone and head of a configuration, with random weights."""
    backbone = build_backbone(model, views.global_pixels, views.global_frames[0])
    width, prototypes = backbone.width, objective.prototypes
    if objective.kind == "vcl":
        return ConceptBranch(backbone, prototypes)
    if objective.kind == "endofm":
        return Branch(backbone, ProjectionHead(width, prototypes))
    head = ProjectionHead(width, prototypes, hidden=256, bottleneck=64, standardize=True)
    return Branch(backbone, head)


def network_views(batch: Batch, views: ViewsConfig, device: torch.device) -> list[Tensor]:
    """A batch's views as the network wants them, on `device`: float32 [B, 3, T, H, W] each."""
    mean, std = _statistics(views.statistics, device)
    batch = batch.to(device)
    pairs = zip(batch.frames, batch.colors, strict=True)
    return [to_network_input(frames, color, mean, std) for frames, color in pairs]


@functools.cache
def _statistics(name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation on a device, copied there once: a copy a step would wait for the GPU."""
    mean, std = (torch.tensor(values, device=device) for values in STATISTICS[name])
    return mean, std
