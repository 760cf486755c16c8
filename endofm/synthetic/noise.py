"""Smooth random maps of a tube's wall: rows run along the tube, columns around it and meet."""

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
MOST_ROWS = 30_000  # cv2.remap takes no more than 32766


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: tuple[int, int]
) -> FloatArray:
    """Noise of mean 0 and deviation 1 whose hills are about `cell` (rows, columns) large.

    The columns of `shape` must be a multiple of those of `cell`, so that the map closes around the
    tube.
    """
    rows, columns = shape
    lattice = rng.standard_normal((-(-rows // cell[0]) + 4, columns // cell[1])).astype(np.float32)
    lattice = np.pad(lattice, ((0, 0), (2, 2)), mode="wrap")
    size = (lattice.shape[1] * cell[1], lattice.shape[0] * cell[0])
    large = cv2.resize(lattice, size, interpolation=cv2.INTER_CUBIC)
    top, left = 2 * cell[0], 2 * cell[1]
    field = large[top : top + rows, left : left + columns]
    mean, deviation = cv2.meanStdDev(field)
    field = (field - np.float32(mean[0, 0])) / np.float32(deviation[0, 0] + 1e-6)
    return np.asarray(field, np.float32)


def lookup(field: FloatArray, columns: FloatArray, rows: FloatArray) -> FloatArray:
    """Read a map between its pixels; columns wrap, rows must lie within it."""
    if len(columns) > MOST_ROWS:
        pieces = [slice(first, first + MOST_ROWS) for first in range(0, len(columns), MOST_ROWS)]
        return np.concatenate([lookup(field, columns[piece], rows[piece]) for piece in pieces])
    found = cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(found, np.float32)


def smoothstep(low: float, high: float, values: FloatArray) -> FloatArray:
    """0 below `low`, 1 above `high`, smooth between."""
    ramp = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
