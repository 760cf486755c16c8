"""Which frames a view takes. Integers in, integers out; nothing is decoded here."""

import numpy as np

GLOBAL_OFFSET_FRAMES = 5
"""How far the global views are shifted against each other in a clip (Endo-FM, released code)."""

LOCAL_WINDOW_SHARE = 8
"""A local view comes from a window of one eighth of the clip (Endo-FM, released code)."""


def even_indices(first: int, last: int, num_frames: int, length: int) -> list[int]:
    """`num_frames` indices evenly from `first` to `last` (both included), kept inside a clip of
    `length` frames.
    """
    steps = max(num_frames - 1, 1)
    indices = [first + (last - first) * k // steps for k in range(num_frames)]
    return [min(max(index, 0), length - 1) for index in indices]


def global_indices(length: int, frames: tuple[int, ...], exact: bool = False) -> list[list[int]]:
    """Frames of the global views of a clip of `length` frames.

    With two views the first spans [0, L-5] and the second [5, L], as released; more views divide
    the shift evenly. A clip of fewer than 21 frames is shifted by a quarter of its length at most,
    since five frames would leave nothing of it; `exact=True` keeps the five frames whatever the
    length, as the released code does.
    """
    offset = GLOBAL_OFFSET_FRAMES if exact else min(GLOBAL_OFFSET_FRAMES, (length - 1) // 4)
    gaps = max(len(frames) - 1, 1)
    views = []
    for view, num_frames in enumerate(frames):
        shift = offset * view // gaps
        last = length - (offset - shift) if len(frames) > 1 else length
        views.append(even_indices(shift, last, num_frames, length))
    return views


def local_indices(
    length: int, frames: tuple[int, ...], rng: np.random.Generator
) -> list[list[int]]:
    """Frames of the local views: each evenly from a window of L // 8 frames at a uniformly random
    start.
    """
    width = length // LOCAL_WINDOW_SHARE
    starts = [int(rng.integers(0, max(length - width, 1))) for _ in frames]
    return [
        even_indices(start, start + width, num_frames, length)
        for start, num_frames in zip(starts, frames, strict=True)
    ]


def center_indices(length: int, num_frames: int) -> list[int]:
    """Frames spread evenly over a whole clip, for embedding it without augmentation."""
    return [(2 * k + 1) * length // (2 * num_frames) for k in range(num_frames)]
