"""Hashes of pictures: 64 bits, of which few change in a copy."""

import numpy as np
import numpy.typing as npt

from endofm.data.fingerprint import SIDE
from endofm.data.leakage.pictures import WHOLE, Crop, Floats, crop_map

BITS = 64
_SIDE = 0.9
_PLACES = np.linspace(0, 1 - _SIDE, 4)
CROPS = (WHOLE, *(Crop(_SIDE, float(top), float(left)) for top in _PLACES for left in _PLACES))
"""Parts of a picture that are hashed beside the whole: a crop elsewhere is near one of them."""

Codes = npt.NDArray[np.uint64]


def _waves() -> tuple[list[int], list[int]]:
    """The lowest 64 frequencies of the cosine transform without the constant: rows and columns."""
    pairs = [(row, column) for row in range(9) for column in range(9) if row + column > 0]
    chosen = sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:BITS]
    return [row for row, _ in chosen], [column for _, column in chosen]


_ROWS, _COLUMNS = _waves()
MIRRORED = np.array([(-1.0) ** column for column in _COLUMNS], np.float32)
"""What mirroring a picture from left to right does to its description: a sign each."""


def description_maps(crops: tuple[Crop, ...] = CROPS) -> Floats:
    """A matrix [64 * crops, 1024] that describes each crop of a flattened detail picture."""
    frequencies = np.arange(9)[:, None]
    cosines = np.cos(np.pi * (np.arange(SIDE)[None] + 0.5) * frequencies / SIDE)
    waves = cosines[_ROWS][:, :, None] * cosines[_COLUMNS][:, None, :]
    flat = waves.reshape(BITS, -1).astype(np.float32)
    return np.concatenate([flat @ crop_map(crop) for crop in crops])


def describe(values: Floats, maps: Floats) -> Floats:
    """Descriptions [n, crops, 64] of detail pictures [n, 32, 32]."""
    described = values.reshape(len(values), -1) @ maps.T
    return described.reshape(len(values), -1, BITS)


def codes_of(descriptions: Floats) -> Codes:
    """Signs as bits: [..., 64] -> uint64 [...]."""
    bits = np.packbits(descriptions > 0, axis=-1, bitorder="little")
    return np.ascontiguousarray(bits).view("<u8")[..., 0]
