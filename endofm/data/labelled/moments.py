"""Which frames of a labelled clip are shown. Integers in, integers out; nothing is decoded here."""

import numpy as np


def spread(length: int, num_frames: int, number: int = 0, count: int = 1) -> list[int]:
    """Frames evenly over a clip of `length` frames; `count` such clips interlace, one by one.

    The only one is `center_indices`. A shorter clip repeats frames.
    """
    share = (2 * number + 1) / (2 * count)
    return [min(int((k + share) * length / num_frames), length - 1) for k in range(num_frames)]


def draw_spread(length: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """Frames evenly over a clip, all shifted by one random share of their spacing."""
    share = rng.random()
    return [min(int((k + share) * length / num_frames), length - 1) for k in range(num_frames)]


def run(start: int, num_frames: int, stride: int, length: int) -> list[int]:
    """Every `stride`-th frame from `start` on; the last frame repeats where the clip is over."""
    return [min(max(start + k * stride, 0), length - 1) for k in range(num_frames)]


def draw_run(length: int, num_frames: int, stride: int, rng: np.random.Generator) -> list[int]:
    """Every `stride`-th frame from a random start that leaves room for all, where there is."""
    room = length - (num_frames - 1) * stride
    return run(int(rng.integers(0, max(room, 1))), num_frames, stride, length)


def spaced_run(length: int, num_frames: int, stride: int, number: int, count: int) -> list[int]:
    """One of `count` such runs, whose starts lie evenly; the only one lies in the middle."""
    room = max(length - 1 - (num_frames - 1) * stride, 0)
    share = 0.5 if count == 1 else number / (count - 1)
    return run(round(room * share), num_frames, stride, length)


def around(center: int, num_frames: int, stride: int, length: int) -> list[int]:
    """Every `stride`-th frame with `center` in the middle (after it, for an even number)."""
    return run(center - num_frames // 2 * stride, num_frames, stride, length)


def cover(length: int, num_frames: int, stride: int) -> list[list[int]]:
    """Runs that show every frame of a clip at least once; the last one begins earlier to fit in.

    Where the clip is shorter than a run, its last frame repeats.
    """
    reach = num_frames * stride
    starts = sorted({min(start, max(length - reach, 0)) for start in range(0, length, reach)})
    runs = [
        run(start + offset, num_frames, stride, length)
        for start in starts
        for offset in range(min(stride, length))
    ]
    return [one for one in runs if one[0] < length]
