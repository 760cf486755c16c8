"""Memory that is freed and wanted again at every operation of a step, on CPUs."""

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

_NEVER = -1
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large tensors too come from the heap, not from the system each time
    "M_TRIM_THRESHOLD": (-1, _NEVER),  # and the heap is not given back
    "M_ARENA_MAX": (-8, 1),  # one for all threads: backward runs in another than forward
}
"""glibc's numbers for `mallopt`, and what we set."""


def keep_freed_memory() -> bool:
    """Have freed memory stay with this process; whether that could be set.

    By default glibc gives large tensors back to the system at once, and every page of the next one
    is cleared and mapped anew: where we measured it, a fifth to a third of a training step. The
    process holds on to a little more memory in return (`docs/speed.md`). Other C libraries are left
    as they are.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and all([mallopt(*setting) for setting in _SETTINGS.values()])


def give_back_freed_memory(device: torch.device) -> None:
    """Give all memory that is free now back to the system, if tensors are on a CPU.

    glibc can rarely use a freed tensor's place for another of the same size: it asks for some bytes
    more, to align it, and small objects have taken those beside it. So what it holds grows to half
    as much again as is in use, unless it is given back at times. Other C libraries are left as
    they are.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        return
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def give_back_before_gradient(tensor: Tensor) -> None:
    """Give freed memory back when the backward pass comes to `tensor`, if that is on a CPU."""
    device = tensor.device
    if tensor.requires_grad and device.type == "cpu" and not torch.compiler.is_compiling():
        tensor.register_hook(lambda _: give_back_freed_memory(device))  # type: ignore[no-untyped-call]


def _of_glibc(name: str) -> Any:
    """A function of the C library, or None where that is another than glibc."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
