"""Peak memory of a step, each way in a process of its own.

A process that has measured something before can't tell what this step needs: `python -m
endofm.bench.memory` takes one step as the JSON on its input says, and writes the peak in bytes.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from endofm.allocator import keep_freed_memory
from endofm.bench.clock import Clock
from endofm.bench.measure import as_wanted, make_step, random_views
from endofm.bench.plan import BenchConfig, Recipe, Way
from endofm.bench.steps import OurStep, PlainStep
from endofm.config import as_tree
from endofm.errors import RunError


def peak_memory(config: BenchConfig, recipe: Recipe, way: Way, device: torch.device) -> int:
    """Bytes: resident memory of a CPU's process, or what is allocated on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump(as_tree(recipe)), encoding="utf-8")
        told = {
            "recipe": str(file),
            "way": way._asdict(),
            "batch_size": config.batch_size,
            "device": str(device),
            "threads": torch.get_num_threads(),
        }
        done = subprocess.run(
            [sys.executable, "-m", "endofm.bench.memory"],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RunError(
            f"The memory of '{way.name}' can't be measured ({done.stderr.strip()[-300:]}); give "
            "--quick to leave memory out."
        )
    return int(done.stdout.split()[-1])


def take_step(told: dict[str, object]) -> int:
    """One step, with the optimizer's state there as in the middle of a run; the peak."""
    torch.set_num_threads(int(str(told["threads"])))
    device, way = torch.device(str(told["device"])), Way(**told["way"])  # type: ignore[arg-type]
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    recipe = BenchConfig(recipe=Path(str(told["recipe"]))).read_recipe()
    step = make_step(recipe, way, Clock(device))
    views = random_views(recipe, int(str(told["batch_size"])), device)
    fill_optimizer(step)
    with as_wanted(step, way):
        step(views, way.precision)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak()


def fill_optimizer(step: OurStep | PlainStep) -> None:
    """Make the optimizer's state, by an update with gradients of zero."""
    for group in step.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    step.optimizer.step()
    step.optimizer.zero_grad()


def resident_peak() -> int:
    """The most bytes this process has had in memory."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike `getrusage`, it starts anew with the program
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found is not None:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{take_step(json.load(sys.stdin))}\n")
