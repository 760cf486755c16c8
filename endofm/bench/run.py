"""The whole measurement, and its result as plain values."""

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from endofm.allocator import keep_freed_memory
from endofm.bench.clock import Clock
from endofm.bench.data_path import DataTime, time_data
from endofm.bench.measure import StepTime, time_steps
from endofm.bench.memory import peak_memory
from endofm.bench.plan import BenchConfig, Recipe, Way, ways
from endofm.models.build import build_backbone
from endofm.training.estimate import matrix_speed, step_flops


@dataclass(frozen=True)
class Result:
    """All that was measured on one machine in one run."""

    machine: str
    model: str
    batch_size: int
    clips: int
    epochs: float
    views: list[tuple[int, int]]
    run_precision: str
    clip_flops: float
    """Operations of one clip's step, by the equations (2 a multiply-add)."""
    peak_flops: dict[str, float]
    """Operations a second of a linear layer's products, by precision."""
    steps: list[StepTime]
    memory: dict[Way, int]
    data: DataTime
    time_of: str

    def step(self, way: Way) -> StepTime | None:
        """The time of a way, if it was measured."""
        return next((one for one in self.steps if one.way == way), None)

    def as_tree(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tree = asdict(self)
        tree["steps"] = [{**asdict(one), "way": one.way._asdict()} for one in self.steps]
        tree["memory"] = [
            {"way": way._asdict(), "bytes": peak} for way, peak in self.memory.items()
        ]
        return tree


def measure(config: BenchConfig, tell: Callable[[str], None]) -> Result:
    """Data, steps, memory, in this order; `tell` hears what is being done."""
    device, recipe = config.find_device(), config.read_recipe()
    threads = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        return _measure(config, recipe, device, tell)
    finally:
        torch.set_num_threads(threads)


def _measure(
    config: BenchConfig, recipe: Recipe, device: torch.device, tell: Callable[[str], None]
) -> Result:
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    clock = Clock(device, config.time_of)
    speeds = {kind: matrix_speed(device, kind, clock.now) for kind in ("no", "bf16")}
    chosen = ways(config, device, has_bf16=speeds["bf16"] >= speeds["no"])
    tell("Reads clips.")
    with tempfile.TemporaryDirectory() as folder:
        data = time_data(config, recipe, Path(folder), device)
    tell(f"Takes steps in {len(chosen)} ways.")
    steps = time_steps(config, recipe, chosen, device)
    memory = {}
    for way in [] if config.quick else [way for way in chosen if not way.fast_products]:
        tell(f"Measures the memory of: {way.name}.")
        memory[way] = peak_memory(config, recipe, way, device)
    with torch.device("meta"):
        backbone = build_backbone(
            recipe.model, recipe.views.global_pixels, recipe.views.global_frames[0]
        )
    flops = step_flops(backbone.config, recipe.views.shapes, len(recipe.views.global_frames))
    return Result(
        machine=describe(device),
        model=recipe.model.name,
        batch_size=config.batch_size,
        clips=config.clips,
        epochs=recipe.optim.epochs,
        views=recipe.views.shapes,
        run_precision="no" if recipe.run.precision == "no" else "bf16",
        clip_flops=flops,
        peak_flops=speeds,
        steps=steps,
        memory=memory,
        data=data,
        time_of=config.time_of,
    )


def describe(device: torch.device) -> str:
    """The device in words; no name of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    units = [name for name in ("amx", "avx512", "avx2") if _has(name)]
    kind = f" ({units[0].upper()})" if units else ""
    return f"{torch.get_num_threads()} threads on {os.cpu_count()} cores of {model}{kind}"


def _has(unit: str) -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and f" {unit}" in info.read_text(encoding="utf-8")
