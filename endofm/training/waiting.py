"""When reading clips limits a run, and what to change."""

import math
import os
from collections.abc import Sequence

from endofm.data.manifests.manifest import Segment

SHARE = 0.2
"""Share of the time spent waiting for clips from which on reading limits the run."""
ROWS = 2
"""Rows of metrics in a row above it before it is told; the first has the start of the workers."""


def own_cores() -> int:
    """CPU cores for each training process on this machine."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def ways_out(share: float, workers: int, cores: int, segments: Sequence[Segment]) -> str:
    """A sentence for a run that spends `share` of its time waiting for clips.

    With `workers` reading as fast as they do, `workers / (1 - share)` would keep up.
    """
    wanted = math.ceil(max(workers, 1) / max(1 - share, 0.05))
    has_windows = len({segment.file for segment in segments}) < len(segments)
    ways = []
    if workers < cores:
        ways.append(f"set data.workers to {min(wanted, cores)}")
    if wanted > cores and has_windows:
        ways.append(
            "cut the long videos into clips once (`endofm corpus prepare`), since a window of a "
            "long video costs about ten times as much as a clip of its own"
        )
    elif wanted > cores:
        ways.append(
            "write smaller clips once (`endofm corpus prepare --short-side-pixels`), pack them if "
            "the storage is slow (`endofm corpus pack`), or take a machine with more cores"
        )
    return (
        f"Steps wait for clips {share:.0%} of the time: reading limits this run (data.workers is "
        f"{workers}; each training process has {cores} CPU cores). What helps: {'; '.join(ways)}."
    )
