"""Small grey pictures made comparable: their detail, without brightness, shading and dark borders.

`n` pictures are float32 [n, 32, 32]. A crop is a linear map of a picture's rows and columns.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.checks.fingerprint import SIDE

Floats = npt.NDArray[np.float32]

_CHUNK = 64  # pictures that OpenCV filters at once, as channels
_FINE, _COARSE = 0.7, 4.0  # pixels: detail lies between these two blurs
_DARK = 0.25  # share of the mean brightness: darker parts are the border of the endoscope's picture
_WEAK = 2.0  # per cent of the mean brightness: weaker detail is noise and not amplified
_MIN_OVERLAP = 0.25  # of the picture must be inside both borders


@dataclass(frozen=True)
class Detail:
    """What pictures show, evenly strong everywhere, and where: both float32 [n, 32, 32]."""

    values: Floats
    inside: Floats

    def __getitem__(self, chosen: npt.NDArray[np.intp] | slice) -> "Detail":
        """Some of the pictures."""
        return Detail(self.values[chosen], self.inside[chosen])


class Crop(NamedTuple):
    """The part of a picture that a copy shows: its side, top and left as shares of the picture."""

    side: float
    top: float
    left: float


WHOLE = Crop(1.0, 0.0, 0.0)


def detail(pictures: npt.NDArray[np.uint8] | Floats) -> Detail:
    """Divide by the mean, take what lies between two blurs, even out its strength.

    Brightness falls out by the division, shading by the coarse blur, and the dark border is left
    out of every mean, so that its edge is no detail.
    """
    parts = [_detail(pictures[at : at + _CHUNK]) for at in range(0, len(pictures), _CHUNK)]
    if not parts:
        empty = np.zeros((0, SIDE, SIDE), np.float32)
        return Detail(empty, empty)
    values, inside = zip(*parts, strict=True)
    return Detail(np.concatenate(values), np.concatenate(inside))


def cropped(pictures: npt.NDArray[np.uint8] | Floats, crop: Crop) -> Floats:
    """The crop of every picture, as 32 x 32 again."""
    rows, columns = _average(crop.side, crop.top), _average(crop.side, crop.left)
    return np.asarray(rows @ pictures.astype(np.float32) @ columns.T, np.float32)


def crop_map(crop: Crop) -> Floats:
    """The same as a matrix [1024, 1024] that acts on a flattened picture."""
    return np.kron(_average(crop.side, crop.top), _average(crop.side, crop.left))


def agreement(one: Detail, other: Detail) -> Floats:
    """Correlation of every picture of `one` with every one of `other`: float32 [n, m], at most 1.

    It counts what is inside both borders; -1 where that is less than a quarter of the picture.
    """
    a, b = one.values.reshape(len(one.values), -1), other.values.reshape(len(other.values), -1)
    in_a, in_b = one.inside.reshape(a.shape), other.inside.reshape(b.shape)
    power = (a * a) @ in_b.T * (in_a @ (b * b).T)
    correlation = a @ b.T / np.sqrt(power + 1e-6)
    overlap = in_a @ in_b.T / SIDE**2
    return np.where(overlap >= _MIN_OVERLAP, correlation, np.float32(-1))


def _detail(pictures: npt.NDArray[np.uint8] | Floats) -> tuple[Floats, Floats]:
    channels = np.ascontiguousarray(np.moveaxis(pictures, 0, -1), np.float32)
    channels *= 100 / (channels.mean((0, 1)) + 1)
    inside = cv2.erode((channels > 100 * _DARK).astype(np.float32), np.ones((3, 3), np.uint8))
    inside = inside.reshape(channels.shape)
    near, far = _blur(inside, _FINE) + 1e-3, _blur(inside, _COARSE) + 1e-3
    shown = channels * inside
    between = (_blur(shown, _FINE) / near - _blur(shown, _COARSE) / far) * inside
    strength = np.sqrt(_blur(between * between, _COARSE) / far)
    values = between / (strength + _WEAK)
    return np.moveaxis(values, -1, 0).copy(), np.moveaxis(inside, -1, 0).copy()


def _blur(channels: Floats, pixels: float) -> Floats:
    blurred = cv2.GaussianBlur(channels, (0, 0), pixels, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32).reshape(channels.shape)


@functools.lru_cache(maxsize=4096)
def _average(side: float, start: float) -> Floats:
    """Averages a stretch of 32 pixels to 32 pixels again: [32, 32], rows sum to 1."""
    edges = np.clip((start + side * np.arange(SIDE + 1) / SIDE) * SIDE, 0, SIDE)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(SIDE)[None]
    share = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return np.asarray(share / share.sum(1, keepdims=True), np.float32)
