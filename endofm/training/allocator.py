"""Memory that is freed and wanted again at every operation of a step, on CPUs."""

import ctypes
import sys

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
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(key, value) for key, value in _SETTINGS.values()])
