"""Real runs in processes of their own: started, watched, killed, and compared bit for bit."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from endofm.config import to_yaml

ROOT = Path(__file__).parents[1]
PATIENCE = 900
"""Seconds in which a run must end or get somewhere, however busy the machine is."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(program: str, config, world: int = 1, script: Path | None = None):
    """`python -m program` (or a script that ends in it) on CPU processes, many by torchrun."""
    recipe = config.run.out.with_suffix(".yaml")
    recipe.write_text(to_yaml(config), encoding="utf-8")
    command = [sys.executable]
    if world > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={world}"]
        command += [f"--master-port={free_port()}"]
    command += [str(script)] if script else ["-m", program]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [*command, "--config", str(recipe)],
        cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process) -> str:
    """Wait for the end; what was told."""
    told, _ = process.communicate(timeout=PATIENCE)
    return told


def run_to_the_end(program: str, config, world: int = 1, script: Path | None = None) -> str:
    """Start, and wait for success; what was told."""
    process = start(program, config, world, script)
    told = finish(process)
    assert process.returncode == 0, told[-4000:]
    return told


def kill_all(process) -> str:
    """kill -9 of a program, which must still run, and all below it; what was told until then."""
    send([process.pid, *below(process.pid)], signal.SIGKILL)
    told = finish(process)
    assert process.returncode == -signal.SIGKILL, f"the kill came too late: {told[-4000:]}"
    return told


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def below(pid: int) -> list[int]:
    """Children, their children, and so on."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def ranks(process) -> dict[int, int]:
    """Rank -> process id of what a launcher has started; data workers are no ranks."""
    found = {}
    for pid in below(process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            settings = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            if parent == process.pid and b"RANK" in settings:
                found[int(settings[b"RANK"])] = pid
    return found


def wait_for(process, ready: Callable[[], bool], every: float = 0.01) -> None:
    """Until something holds in a run that goes on."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, f"the run ended: {finish(process)[-4000:]}"
        assert time.monotonic() < deadline, f"the run got nowhere: {kill_all(process)[-4000:]}"
        time.sleep(every)


def num_rows(out: Path) -> int:
    """Whole rows of metrics so far."""
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(out: Path) -> Path:
    return max(file.parent for file in (out / "checkpoints").glob("step-*/whole.json"))


def last_step(out: Path) -> int:
    return int(last_checkpoint(out).name.removeprefix("step-"))


def state(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint: the networks, the centre, the optimizer's moments."""
    folder = last_checkpoint(out)
    tensors = load_file(folder / "model.safetensors")
    moments = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    for number, entry in moments.items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
    assert any(name.endswith(".exp_avg_sq") for name in tensors)
    return tensors


def assert_equal_bit_for_bit(one: Path, other: Path) -> None:
    """The last checkpoints of two runs."""
    first, second = state(one), state(other)
    assert set(first) == set(second) and last_step(one) == last_step(other)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ: {different[:5]}"


def kill_while_saving(process, out: Path) -> str:
    """Stop all processes as soon as a part-written checkpoint is there, and kill them on it."""
    folder = out / "checkpoints"
    while True:
        wait_for(process, lambda: any(folder.glob("part-*")), every=0.0005)
        everyone = [process.pid, *below(process.pid)]
        send(everyone, signal.SIGSTOP)
        time.sleep(0.02)
        if any(folder.glob("part-*")):
            break
        send(everyone, signal.SIGCONT)
    told = kill_all(process)
    assert any(folder.glob("part-*"))
    return told
