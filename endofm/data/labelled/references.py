"""Which frames stand beside a key frame that is to be looked at together with its neighbours."""

from dataclasses import dataclass

import numpy as np

from endofm.errors import ConfigError


@dataclass(frozen=True)
class KeyClip:
    """Frames of a video in time order, the key frame among them."""

    indices: tuple[int, ...]
    key: int
    """Place of the key frame in `indices`."""


def reference_frames(
    key: int,
    num_frames: int,
    count: int,
    reach: int = 9,
    generator: np.random.Generator | None = None,
) -> KeyClip:
    """A key frame with `count` others of a video, at most `reach` frames away.

    Drawn at random with a generator (training), else spread evenly (testing). Where the video has
    too few, some come twice; in a video of one frame the key frame is its own reference. Endo-FM's
    released detection takes 2 in training and 10 in testing, within 9 frames. Raises `ConfigError`
    for a key frame outside the video and for counts below 1.
    """
    if not 0 <= key < num_frames or count < 1 or reach < 1:
        raise ConfigError(
            f"Frame {key} of {num_frames} can't have {count} references within {reach} frames; "
            f"give a frame from 0 to {num_frames - 1}, and counts of 1 or more."
        )
    first, last = max(key - reach, 0), min(key + reach, num_frames - 1)
    near = [index for index in range(first, last + 1) if index != key] or [key]
    if generator is None:
        places = np.linspace(0, len(near) - 1, count).round().astype(int)
    else:
        places = generator.choice(len(near), count, replace=len(near) < count)
    others = sorted(near[place] for place in places)
    before = sum(index < key for index in others)
    return KeyClip((*others[:before], key, *others[before:]), before)
