"""Steps in every way, in turn, on equal weights and views."""

import gc
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from endofm.bench.clock import Clock
from endofm.bench.plan import BenchConfig, Recipe, Way
from endofm.bench.steps import PARTS, OurStep, PlainStep
from endofm.models.timesformer import TimeSformer
from endofm.tasks.pretraining.endofm import PretrainingTask, build_task


@dataclass(frozen=True)
class StepTime:
    """Median seconds of a step taken in one way, and of its parts."""

    way: Way
    seconds: float
    parts: dict[str, float]


def time_steps(
    config: BenchConfig, recipe: Recipe, chosen: list[Way], device: torch.device
) -> list[StepTime]:
    """Every way once to warm up (a quick run: on small views), then rounds of all of them."""
    clock = Clock(device, config.time_of)
    steps = {way: make_step(recipe, way, clock) for way in first_of_each_task(chosen)}
    views = random_views(recipe, config.batch_size, device)
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in chosen}
    pixels = min(view.shape[-1] for view in views)
    small = [view[..., :pixels, :pixels] for view in views]
    for number in range(2 if config.quick else 1 + config.repetitions):
        for way in chosen:
            step = steps[task_of(way)]
            with as_wanted(step, way):
                clock.taken()
                step(small if config.quick and not number else views, way.precision)
            if number:
                found[way].append(clock.taken())
    return [_median(way, rows) for way, rows in found.items()]


def task_of(way: Way) -> Way:
    """The way whose task this one uses: precision and checkpointing need none of their own."""
    return Way(way.code, "no", compiled=way.compiled)


def first_of_each_task(chosen: list[Way]) -> list[Way]:
    """The ways that a task is built for."""
    return list(dict.fromkeys(task_of(way) for way in chosen))


def make_step(recipe: Recipe, way: Way, clock: Clock) -> OurStep | PlainStep:
    """A step with weights that are the same in every way, drawn at random."""
    torch.manual_seed(0)
    model = replace(recipe.model, init_from="")
    task, _ = build_task(model, recipe.views, recipe.objective)
    assert isinstance(task, PretrainingTask)  # of a recipe that `read_recipe` lets pass
    task.to(clock.device)
    if way.compiled:
        task.compile_backbones()
    num_global = len(recipe.views.global_frames)
    step = OurStep if way.code == "ours" else PlainStep
    return step(task, num_global, clock)


@contextmanager
def as_wanted(step: OurStep | PlainStep, way: Way) -> Iterator[None]:
    """Checkpointing and oneDNN as the way says, and afterwards as before."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    if way.fast_products:
        setting.fp32_precision = "bf16"
    set_checkpointing(step.task, way.checkpointing)
    try:
        yield
    finally:
        setting.fp32_precision = before


def set_checkpointing(task: PretrainingTask, on: bool) -> None:
    """Whether the backbones recompute their blocks in the backward pass."""
    for branch in (task.student, task.teacher):
        assert isinstance(branch.backbone, TimeSformer)
        branch.backbone.config = replace(branch.backbone.config, gradient_checkpointing=on)


def random_views(recipe: Recipe, batch_size: int, device: torch.device) -> list[Tensor]:
    """Views as the network gets them: float32 [B, 3, T, H, W] each."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch_size, 3, frames, pixels, pixels, generator=generator).to(device)
        for frames, pixels in recipe.views.shapes
    ]


def _median(way: Way, rows: list[dict[str, float]]) -> StepTime:
    gc.collect()
    total = statistics.median(sum(row.values()) for row in rows)
    parts = {name: statistics.median(row.get(name, 0.0) for row in rows) for name in PARTS}
    return StepTime(way, total, parts)
