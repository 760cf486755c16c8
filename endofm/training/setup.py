"""`start_run`: the one place that touches seeds, processes, the run's folder and its lock."""

import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
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

from endofm.allocator import keep_freed_memory
from endofm.config import differences
from endofm.errors import ConfigError, RunError
from endofm.files import hold, write_text
from endofm.processes import gather_objects
from endofm.training.checkpoint import saved_steps
from endofm.training.matmul import use_fast_products
from endofm.training.peers import Peers, is_failed_collective
from endofm.training.sharding import sharding_plugin, start_sharding

MAY_CHANGE = (
    "data.manifests",  # a checkpoint knows its clips by the manifests' content
    "data.root",
    "data.workers",
    "data.max_broken_share",
    "optim.batch_size",  # a checkpoint knows the clips of a step over all processes
    "optim.accumulate",
    "run.out",
    "run.log_every",
    "run.save_every",
    "run.trackers",
    "run.knn",
    "run.patience_seconds",
)
"""What may differ between the starts of a run: no number hangs on it, or it is checked apart."""

ECHO_SECONDS = 2.0
"""A launcher hands on the signal that its processes have got already: within this it is one."""


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
    knn: tuple[Path, str, int] | None = None
    """A labelled manifest, one of its labels, and n: every n steps, how well neighbours know it."""
    patience_seconds: float = 600
    """How long one of many processes may be silent; a clip may take a quarter of it to decode."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.log_every < 1 or self.save_every < 1:
            raise ConfigError(
                f"run.log_every is {self.log_every} and run.save_every {self.save_every}; both are "
                "at least 1."
            )
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"run.seed is {self.seed}; give 0 or more, below 2^63.")
        if self.patience_seconds <= 0:
            raise ConfigError(
                f"run.patience_seconds is {self.patience_seconds:g}; give more than 0."
            )


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a request that the loop honours at the end of its step."""

    def __init__(self) -> None:
        """Listen from now on; a second signal ends the program at once."""
        self.number = 0
        self.since = 0.0
        self.before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self.since = number, now
        elif now - self.since > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def restore(self) -> None:
        """Listen no more."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """A run under way; leaving its `with` block gives back signals and the folder's lock.

    Where that is because other processes are lost, it raises `RunError` with their ranks.
    """

    config: RunConfig
    accelerator: Accelerator
    peers: Peers
    stop: StopSignal
    exits: ExitStack = field(repr=False)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self.exits:
            self.peers.leave(error)

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

    def stop_signal(self) -> int:
        """The signal that any process has got, or 0, known to all; a collective call."""
        return self.peers.highest(self.stop.number)

    def seed_step(self, step: int) -> None:
        """Random numbers of a step: by the run's seed, the step and this process alone.

        So they are the same after a restart, and defined for a process that was not there before.
        """
        of_step = np.random.SeedSequence((self.config.seed, step, self.rank))
        _seed(int(of_step.generate_state(1)[0]))


def start_run(config: RunConfig, tree: Mapping[str, Any]) -> Run:
    """Set up processes, folder, lock, seeds and signals; `tree` is the resolved configuration.

    Raises `RunError`, on every process, if the folder can't be written, is in use by another run,
    or holds a run with another configuration, naming what differs.
    """
    accelerator = _connect(config)
    peers = Peers(accelerator.process_index, accelerator.num_processes, config.patience_seconds)
    exits, fault = ExitStack(), ""
    if accelerator.is_main_process:
        try:
            exits.enter_context(_take_folder(config.out, tree))
        except RunError as error:
            fault = str(error)
    for told in gather_objects(fault):
        if told:
            peers.leave(None)
            raise RunError(told)
    if accelerator.device.type == "cpu":
        use_fast_products()
        keep_freed_memory()
    _seed(config.seed)
    stop = StopSignal()
    exits.callback(stop.restore)
    return Run(config, accelerator, peers, stop, exits)


def _connect(config: RunConfig) -> Accelerator:
    """Accelerate's view of the processes, once they have found each other."""
    sharding = sharding_plugin()
    # on GPUs a little longer than the processes' own collective, which names who is gone
    patience = timedelta(seconds=1.1 * config.patience_seconds)
    try:
        accelerator = Accelerator(
            mixed_precision=config.precision,
            # ours; given as a plugin, since a number would yield to accelerate's own settings
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            fsdp_plugin=sharding,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=patience),
            ],
        )
    except RuntimeError as error:
        if not is_failed_collective(error):
            raise
        raise RunError(
            f"The processes of the run did not find each other ({str(error).splitlines()[0]}); "
            "look whether all have started, and can reach the first one's address."
        ) from error
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != accelerator.num_processes:
        raise ConfigError(
            f"WORLD_SIZE is {asked}, but accelerate takes this process for the only one, as it "
            "does without a GPU; set ACCELERATE_USE_CPU=true for several processes on CPUs."
        )
    start_sharding(accelerator, sharding)
    if config.precision == "fp16" and accelerator.scaler is None:
        raise ConfigError(
            "run.precision fp16 needs a GPU: accelerate computes in float32 here without a word; "
            "use bf16 or no."
        )
    return accelerator


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  (for libraries that use the global generator)
    torch.manual_seed(number)


@contextmanager
def _take_folder(folder: Path, tree: Mapping[str, Any]) -> Iterator[None]:
    """Make the run's folder ours, with this configuration."""
    with hold_folder(folder):
        _check_same(folder, tree)
        text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
        write_text(folder / "config.yaml", text, "make room, or give another --run.out")
        yield


def hold_folder(folder: Path) -> IO[str]:
    """Make the folder, and hold its lock until the file is closed, or the process ends."""
    taken = f"Another run is writing to {folder}; wait for it, or give another --run.out."
    return hold(folder / ".lock", taken)


def _check_same(folder: Path, tree: Mapping[str, Any]) -> None:
    """A folder with checkpoints goes on with the configuration that made them, or not at all."""
    file = folder / "config.yaml"
    if not file.is_file() or not saved_steps(folder / "checkpoints"):
        return
    try:
        old = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        old = None
    if not isinstance(old, Mapping):
        raise RunError(
            f"{file} does not hold the configuration of the run that is there, so that this one "
            "can't be compared with it; bring it back, or delete it to go on with this one."
        )
    changed = [line for line in differences(old, tree) if line.split(":")[0] not in MAY_CHANGE]
    if changed:
        raise RunError(
            f"{folder} holds a run with another configuration ({'; '.join(changed)}); give another "
            f"--run.out, or delete {file} to go on with the new one all the same."
        )
