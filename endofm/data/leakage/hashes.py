"""Hashes of pictures: twice 64 bits, of which few change in a copy."""

import numpy as np
import numpy.typing as npt

from endofm.data.checks.fingerprint import SIDE
from endofm.data.leakage.pictures import WHOLE, Crop, Floats, crop_map

BITS = 64
"""Of the lowest frequencies, which change least: tables file a hash under some of them."""
ALL_BITS = 2 * BITS
"""With as many of the next frequencies, which tell other pictures apart."""
_HIGHEST = 14  # cosines of either direction that are tried
_SIDE = 0.9
_PLACES = np.linspace(0, 1 - _SIDE, 4)
CROPS = (WHOLE, *(Crop(_SIDE, float(top), float(left)) for top in _PLACES for left in _PLACES))
"""Parts of a picture that are hashed beside the whole: a crop elsewhere is near one of them."""

Codes = npt.NDArray[np.uint64]


def _waves() -> tuple[list[int], list[int]]:
    """The lowest 128 frequencies of the cosine transform without the constant: rows, columns."""
    tried = range(_HIGHEST)
    pairs = [(row, column) for row in tried for column in tried if row + column > 0]
    chosen = sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:ALL_BITS]
    return [row for row, _ in chosen], [column for _, column in chosen]


_ROWS, _COLUMNS = _waves()
MIRRORED = np.array([(-1.0) ** column for column in _COLUMNS], np.float32)
"""What mirroring a picture from left to right does to its description: a sign each."""


def description_maps(crops: tuple[Crop, ...] = CROPS) -> Floats:
    """A matrix [128 * crops, 1024] that describes each crop of a flattened detail picture."""
    frequencies = np.arange(_HIGHEST)[:, None]
    cosines = np.cos(np.pi * (np.arange(SIDE)[None] + 0.5) * frequencies / SIDE)
    waves = cosines[_ROWS][:, :, None] * cosines[_COLUMNS][:, None, :]
    flat = waves.reshape(ALL_BITS, -1).astype(np.float32)
    return np.concatenate([flat @ crop_map(crop) for crop in crops])


def describe(values: Floats, maps: Floats) -> Floats:
    """Descriptions [n, crops, 128] of detail pictures [n, 32, 32]."""
    described = values.reshape(len(values), -1) @ maps.T
    return described.reshape(len(values), -1, ALL_BITS)


def codes_of(descriptions: Floats) -> Codes:
    """Signs as bits: [..., 128] -> uint64 [..., 2], the low frequencies first."""
    bits = np.packbits(descriptions > 0, axis=-1, bitorder="little")
    return np.ascontiguousarray(bits).view("<u8")
