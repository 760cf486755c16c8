"""Whether frames come in a plausible order, told from small grey pictures.

Frames of a film are nearest to those shown next to them, and less near to the ones after. Where the
next frame is no nearer than the one after it, and far nearer ones lie elsewhere in the clip, the
order is wrong. Real fast motion and pictures taken minutes apart do not look like that: there no
frame has anything nearer elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 512  # frames in a row that are compared with each other
_NOISE = 1.0  # grey levels of 255: frames this near are alike
MIN_FRAMES = 8
"""Shorter clips have no order to judge."""
MAX_ALPHABETIC = 5000
"""Longer clips aren't tried in the order of names without leading zeros."""


@dataclass(frozen=True)
class Ordering:
    """How far frames are from each other, in grey levels; `nan` for clips of under 8 frames."""

    next: float
    """From a frame to the next, the mean."""
    second: float
    """From a frame to the one after the next."""
    nearest: float
    """From a frame to its two nearest anywhere in the clip."""
    numbered: float
    """From a frame to the next, once frames are put back whose names were sorted as text (1, 10,
    11, 2); as `next` where that brings nothing."""

    @property
    def is_shuffled(self) -> bool:
        """Whether frames have nearer ones elsewhere than beside them."""
        return self.next >= 0.8 * self.second and self.next >= 1.5 * self.nearest

    @property
    def is_alphabetic(self) -> bool:
        """Whether frames look sorted by names without leading zeros."""
        return self.numbered <= 0.8 * self.next


def assess_order(pictures: npt.NDArray[np.uint8]) -> Ordering:
    """Measure small grey pictures uint8 [T, S, S] of all frames of a clip."""
    length = len(pictures)
    if length < MIN_FRAMES:
        return Ordering(*[float("nan")] * 4)
    flat = pictures.reshape(length, -1).astype(np.float32)
    sums = np.zeros(3)
    counts = np.zeros(3)
    for start in range(0, length - MIN_FRAMES + 1, _BLOCK):
        block = flat[start : start + _BLOCK]
        apart = _distances(block)
        near = np.sort(apart + np.diag(np.full(len(block), np.inf)), axis=1)[:, :2]
        for place, values in enumerate((np.diag(apart, 1), np.diag(apart, 2), near)):
            sums[place] += values.sum()
            counts[place] += values.size
    following, second, nearest = (float(value) for value in sums / counts)
    numbered = following
    if length <= MAX_ALPHABETIC:
        numbered = min([following, *(_walk(flat[order]) for order in _renumbered(length))])
    return Ordering(following, second, nearest, numbered)


def _distances(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Root mean square differences of all pairs, and a little noise: [T, T]."""
    squares = (flat**2).sum(1)
    apart = squares[:, None] + squares[None] - 2 * flat @ flat.T
    return np.asarray(np.sqrt(np.maximum(apart, 0) / flat.shape[1]) + _NOISE, np.float32)


def _walk(flat: npt.NDArray[np.float32]) -> float:
    """From a frame to the next, the mean."""
    steps = np.sqrt(np.square(np.diff(flat, axis=0)).mean(1))
    return float(steps.mean() + _NOISE)


def _renumbered(length: int) -> list[npt.NDArray[np.int64]]:
    """Orders that put back frames whose names, numbered from 0 or 1, were sorted as text."""
    orders = []
    for first in (0, 1):
        names = sorted(range(first, first + length), key=str)
        orders.append(np.argsort(np.array(names)))
    return orders
