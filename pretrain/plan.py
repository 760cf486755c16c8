"""What a recipe comes to on a corpus and a number of processes."""

from dataclasses import dataclass

import torch

from endofm.data.leakage.known import refuse_leaks
from endofm.data.pretraining.dataset import Corpus, SampleOrder, find_missing
from endofm.data.pretraining.loader import BatchPlan
from endofm.errors import ConfigError, RunError, WeightsError
from endofm.models.build import build_backbone, weights_file
from endofm.tasks.pretraining.endofm import build_student
from endofm.tasks.pretraining.knn import read_list
from endofm.training.checkpoint import saved_steps
from endofm.training.estimate import (
    device_memory,
    matrix_speed,
    slow_bf16,
    step_bytes,
    step_flops,
)
from endofm.training.schedules import Schedules
from endofm.training.sharding import num_shards

from .config import PretrainConfig

MIN_LEARNING_RATE = 1e-6
MATRIX_SHARE = 0.35
"""Share of the speed of a plain matrix product that a whole step reached where we measured it."""


@dataclass(frozen=True)
class Plan:
    """Steps, batches and schedules of a run."""

    batches: BatchPlan
    schedules: Schedules
    clips_per_epoch: int

    @property
    def global_batch(self) -> int:
        """Clips of a step over all processes."""
        return self.batches.global_batch

    @property
    def steps(self) -> int:
        """Optimizer updates in all."""
        return self.schedules.steps


def make_plan(config: PretrainConfig, corpus: Corpus, rank: int, world: int) -> Plan:
    """Turn epochs into steps, once. Raises `ConfigError` where a step needs more clips than there
    are.
    """
    optim = config.optim
    batches = BatchPlan(optim.batch_size, optim.accumulate, rank, world)
    clips = SampleOrder(corpus, config.run.seed).epoch_length
    per_epoch = clips // batches.global_batch
    if per_epoch < 1:
        raise ConfigError(
            f"A step takes {batches.global_batch} clips (optim.batch_size {optim.batch_size} x "
            f"optim.accumulate {optim.accumulate} x {world} processes), but an epoch has only "
            f"{clips}; "
            "lower one of them."
        )
    steps = max(1, round(optim.epochs * per_epoch))
    warmup = round(optim.warmup_epochs * per_epoch)
    schedules = Schedules(
        steps=steps,
        steps_per_epoch=per_epoch,
        learning_rate=optim.lr_per_256 * batches.global_batch / 256,
        min_learning_rate=min(MIN_LEARNING_RATE, optim.lr_per_256),
        warmup_steps=warmup,
        weight_decay=optim.weight_decay,
        teacher_momentum=config.objective.teacher_momentum,
        teacher_temperature=config.objective.teacher_temperature,
        teacher_temperature_epochs=round(optim.warmup_epochs),
        freeze_last_layer_epochs=optim.freeze_last_layer_epochs,
    )
    return Plan(batches, schedules, clips)


def check_files(config: PretrainConfig, corpus: Corpus) -> int:
    """Look at every file before the start; how many clips are missing. Raises beyond the limit.

    Raises `RunError` too where a list beside a manifest knows of leaks.
    """
    segments = corpus.segments
    for manifest, part in zip(config.data.manifests, corpus.parts, strict=True):
        refuse_leaks(manifest, part)
    missing = find_missing(segments)
    if len(missing) > config.data.max_broken_share * len(segments):
        raise RunError(
            f"{len(missing)} of {len(segments)} clips can't be used, more than "
            f"data.max_broken_share "
            f"{config.data.max_broken_share} allows; the first: {missing[0].reason}"
        )
    return len(missing)


def check_start(config: PretrainConfig) -> None:
    """Raise where a run would be refused for its starting weights, or for its list for k-NN."""
    source, run = config.model.init_from, config.run
    goes_on = saved_steps(run.out / "checkpoints")  # without its starting weights
    if source and not source.startswith("timm:") and not goes_on:
        file = weights_file(source)
        if not file.is_file():
            raise WeightsError(f"{file} is not a file; give model.init_from one that is there.")
    if run.knn is not None:
        read_list(run.knn, config.data.root)


def memory_needed(config: PretrainConfig) -> tuple[float, int]:
    """Estimated bytes of a step, and the student's number of parameters; nothing is allocated."""
    with torch.device("meta"):
        student = build_student(config.model, config.views, config.objective)
    count = sum(parameter.numel() for parameter in student.parameters())
    needed = step_bytes(
        student.backbone.config,
        _student_shapes(config),
        config.optim.batch_size,
        count,
        config.objective.prototypes,
        half=config.run.precision != "no",
        shards=num_shards(),
    )
    return needed, count


def check_memory(config: PretrainConfig, device: torch.device) -> None:
    """Refuse a step that can't fit, before anything is loaded."""
    needed, _ = memory_needed(config)
    there = device_memory(device)
    if needed > there:
        raise ConfigError(
            f"A step needs about {needed / 2**30:.0f} GiB, but this {device.type} has "
            f"{there / 2**30:.0f}: {config.optim.batch_size} clips of {config.views.num_views} "
            f"views at "
            "once are too many; lower optim.batch_size (and raise optim.accumulate), take fewer or "
            "smaller views, or set model.gradient_checkpointing."
        )


def explain(config: PretrainConfig, corpus: Corpus, plan: Plan, device: torch.device) -> str:
    """What a run will do and cost, in words."""
    now, views, schedules = plan.schedules.at, config.views, plan.schedules
    needed, parameters = memory_needed(config)
    with torch.device("meta"):
        model = build_backbone(config.model, views.global_pixels, views.global_frames[0])
    flops = step_flops(model.config, _student_shapes(config), len(views.global_frames))
    per_process = plan.batches.batch_size * plan.batches.accumulate
    seconds = flops * per_process / (MATRIX_SHARE * matrix_speed(device, config.run.precision))
    short = sum(
        1
        for segment in corpus.segments
        if segment.num_frames is not None
        and segment.num_frames < max(frames for frames, _ in views.shapes)
    )
    lines = [
        f"clips            {len(corpus.segments)} in {len(corpus.parts)} manifests; an epoch shows "
        f"{plan.clips_per_epoch}",
        f"quarantine       {corpus.num_quarantined} clips are left out by the lists beside the "
        f"manifests",
        f"short clips      {short} have fewer frames than the longest view; their frames are "
        f"repeated",
        f"model            {config.model.name}, {parameters / 1e6:.1f} M parameters with its head",
        f"starts from      {config.model.init_from or 'random weights'}",
        f"views            {views.num_views} a clip: "
        + ", ".join(f"{frames} x {pixels} px" for frames, pixels in views.shapes),
        f"loss terms       {_loss_terms(config)}",
        f"batch            {plan.batches.global_batch} clips a step = {plan.batches.batch_size} x "
        f"{plan.batches.accumulate} accumulated x {plan.batches.world} processes",
        f"looks at once    {_looks_at(config, plan)}",
        f"weights          {_kept(plan)}",
        f"steps            {plan.steps} ({config.optim.epochs:g} epochs of "
        f"{schedules.steps_per_epoch}); every clip is seen about "
        f"{plan.steps * plan.global_batch / plan.clips_per_epoch:.3g} times",
        f"learning rate    {schedules.learning_rate:.3g} after {schedules.warmup_steps} steps of "
        f"warm-up, {schedules.min_learning_rate:.0e} at the end",
        f"weight decay     {now(0).weight_decay:g} to {schedules.weight_decay[1]:g}",
        f"teacher          momentum {schedules.teacher_momentum:g} to 1, temperature "
        f"{schedules.teacher_temperature[0]:g} to {schedules.teacher_temperature[1]:g}, "
        f"{config.objective.centering}",
        f"arithmetic       {flops / 1e12:.3g} TFLOP a clip",
        f"memory           about {needed / 2**30:.1f} GiB of {device_memory(device) / 2**30:.0f} "
        f"on "
        f"{device.type}",
        f"time             about {duration(seconds)} a step, {duration(seconds * plan.steps)} in "
        f"all on {plan.batches.world} x {device.type} like this one, if reading keeps up",
        f"writes to        {config.run.out}",
    ]
    if slow := slow_bf16(device, config.run.precision):
        lines.append(f"mind             {slow}")
    if config.run.precision == "fp16" and device.type == "cpu":
        lines.append("mind             run.precision fp16 needs a GPU; here a run would be refused")
    return "\n".join(lines)


def _student_shapes(config: PretrainConfig) -> list[tuple[int, int]]:
    """(frames, pixels) of all that passes the student: the first `global_frames` come first."""
    shapes = config.views.shapes
    if config.objective.kind != "vcl":
        return shapes
    frames = [(1, pixels) for _, pixels in shapes]
    return shapes + frames + [(count - 1, pixels) for count, pixels in shapes]


def _loss_terms(config: PretrainConfig) -> str:
    if config.objective.kind == "vcl":
        return "alignment of static and of dynamic concepts, local contrast, two regularisers"
    num_global = len(config.views.global_frames)
    cross = num_global * (num_global - 1)
    terms = num_global * config.views.num_views - num_global
    return (
        f"{terms}: {cross} cross-view (global to global), {terms - cross} dynamic (local to global)"
    )


def _looks_at(config: PretrainConfig, plan: Plan) -> str:
    """How many clips the parts of the objective that compare clips see together."""
    objective = config.objective
    used = {
        "the small head's standardisation": objective.kind == "endofm_small",
        "Sinkhorn-Knopp": objective.centering == "sinkhorn" or objective.kind == "vcl",
        "local contrast": objective.kind == "vcl",
        "KoLeo": objective.koleo_weight > 0,
    }
    together = plan.batches.batch_size * plan.batches.world
    named = ", ".join(name for name, is_used in used.items() if is_used)
    if not named:
        return "every clip by itself; the centre is that of a whole step"
    return f"{together} clips of all processes (accumulation adds none): {named}"


def _kept(plan: Plan) -> str:
    """Where weights, gradients and optimizer state are."""
    if num_shards() == 1:
        return "whole on every process"
    return f"divided over {plan.batches.world} processes (FSDP 2)"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would take."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
