"""`start_run`: the one place that touches seeds, processes, the run's folder and its lock."""

import os
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from endofm.config import differences
from endofm.errors import ConfigError, RunError
from endofm.processes import gather_objects
from endofm.training.matmul import use_fast_products

MAY_CHANGE = (
    "data.manifests",  # a checkpoint knows its clips by the manifests' content
    "data.root",
    "data.workers",
    "optim.batch_size",  # a checkpoint knows the clips of a step over all processes
    "optim.accumulate",
    "run.out",
    "run.log_every",
    "run.save_every",
    "run.trackers",
)
"""What may differ between the starts of a run: no number hangs on it, or it is checked apart."""


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run runs."""

    out: Path = Path("runs/pretrain")
    """Folder of the run: checkpoints, metrics, the exported model. The same command goes on in it.
    """
    seed: int = 0
    """Decides initial weights, order of clips, and every augmentation."""
    precision: Literal["no", "fp16", "bf16"] = "no"
    """Numbers inside the network: float32 (`no`), or mixed with 16 bits."""
    compile: bool = False
    """Compile the backbones (torch.compile): minutes at the start, faster steps on a GPU."""
    log_every: int = 20
    """Steps between two rows of metrics.jsonl."""
    save_every: int = 500
    """Steps between two checkpoints; the last two are kept."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where else the metrics go; WANDB_MODE=offline keeps wandb on this machine."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.log_every < 1 or self.save_every < 1:
            raise ConfigError(
                f"run.log_every is {self.log_every} and run.save_every {self.save_every}; both are "
                "at least 1."
            )
        if self.seed < 0:
            raise ConfigError(f"run.seed is {self.seed}; give 0 or more.")


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a request that the loop honours at the end of its step."""

    def __init__(self) -> None:
        """Listen from now on; a second signal ends the program at once."""
        self.number = 0
        self.before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number

    def restore(self) -> None:
        """Listen no more."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal that any process has got, known to all; a collective call."""
        highest: int = max(gather_objects(self.number))
        return highest


@dataclass
class Run:
    """A run under way; leaving its `with` block gives back signals and the folder's lock."""

    config: RunConfig
    accelerator: Accelerator
    stop: StopSignal
    lock: IO[str] | None = field(repr=False, default=None)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.restore()
        if self.lock is not None:
            self.lock.close()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.out

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def is_on_gpu(self) -> bool:
        """Whether batches travel to a GPU."""
        return self.device.type == "cuda"

    @property
    def rank(self) -> int:
        """The number of this process."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Processes in all."""
        return int(self.accelerator.num_processes)

    def logs_after(self, step: int) -> bool:
        """Whether a row of metrics follows this step."""
        return (step + 1) % self.config.log_every == 0

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        return (step + 1) % self.config.save_every == 0

    def stopped_at(self, step: int) -> int:
        """The signal to stop at, or 0. Many processes agree on it only where a row is due."""
        if self.world > 1 and not self.logs_after(step):
            return 0
        return self.stop.agreed()

    def seed_process(self) -> None:
        """Give every process its own random numbers, once the weights are made alike in all."""
        seed = self.config.seed + 1000 * self.rank
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  (for libraries that use the global generator)
        torch.manual_seed(seed)


def start_run(config: RunConfig, tree: Mapping[str, Any]) -> Run:
    """Set up processes, folder, lock, seeds and signals; `tree` is the resolved configuration.

    Raises `RunError` if the folder can't be written, is in use by another run, or holds a run with
    another configuration, naming what differs.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        # ours; given as a plugin, since a number would yield to accelerate's own settings
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(minutes=10)),
        ],
    )
    lock = _open_folder(config.out) if accelerator.is_main_process else None
    _check_same(config.out, tree)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
        write_text(config.out / "config.yaml", text)
    if accelerator.device.type == "cpu":
        use_fast_products()
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)  # noqa: NPY002
    torch.manual_seed(config.seed)
    return Run(config, accelerator, StopSignal(), lock)


def _open_folder(folder: Path) -> IO[str] | None:
    """Make the folder, and hold its lock until the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"The run folder {folder} can't be written ({error.strerror}); give another --run.out."
        ) from error
    if os.name != "posix":
        return lock
    import fcntl

    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by workers, as flock is
    except OSError as error:
        raise RunError(
            f"Another run is writing to {folder}; wait for it, or give another --run.out."
        ) from error
    return lock


def _check_same(folder: Path, tree: Mapping[str, Any]) -> None:
    """A folder with checkpoints goes on with the configuration that made them, or not at all."""
    file = folder / "config.yaml"
    if not file.is_file() or not any((folder / "checkpoints").glob("step-*")):
        return
    old = yaml.safe_load(file.read_text(encoding="utf-8"))
    changed = [line for line in differences(old, tree) if line.split(":")[0] not in MAY_CHANGE]
    if changed:
        raise RunError(
            f"{folder} holds a run with another configuration ({'; '.join(changed)}); give another "
            f"--run.out, or delete {file} to go on with the new one."
        )


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
