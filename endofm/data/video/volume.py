"""CT volumes as clips: axial slices as frames, from the feet's end to the head's.

Arrays are turned to one orientation by permuting and mirroring axes; nothing is interpolated in
depth, and a tilt of less than half a right angle stays. A frame is looked at from the feet, as on a
viewing station: its left is the patient's right, its top the patient's front. Hounsfield units are
cut to a window of chest CT and spread over 8 bits: a step is 5.5 HU, a fraction of the noise of any
scanner. Pixels that are not square are resized to squares of the finer side.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.video.base import BaseReader
from endofm.errors import ConfigError, VideoError

WINDOW = (-1000.0, 400.0)
"""Hounsfield units that become black and white (ViPTT-Net, arXiv 2105.12810)."""
AIR = (-1100.0, -500.0)
"""Hounsfield units of the air in and around a body; less is padding."""
LEAST_AIR = 0.01
"""Share of the voxels looked at that must be air; without, values are hardly Hounsfield units."""
_LOOKED_AT = 9  # slices, evenly over the volume
_LOOKED_STEP = 4  # every so many rows and columns

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class VolumeReader(BaseReader):
    """A volume's slices as frames; supplies `_plane` in Hounsfield units."""

    def __init__(self, path: Path, shape: tuple[int, int, int], steps: Matrix) -> None:
        """`steps` [3, 3]: column i goes from a voxel to the next along array axis i, in mm to the
        patient's left, back and head. Raises `VideoError` where it spans no space.
        """
        super().__init__(path)
        self.fps = float("nan")
        spacing = np.linalg.norm(steps, axis=0)
        if min(shape) < 1 or not np.isfinite(steps).all() or abs(np.linalg.det(steps)) < 1e-9:
            raise VideoError(
                f"{path} has voxels of {np.round(spacing, 3).tolist()} mm along axes that span no "
                f"space (shape {list(shape)}); convert the original again."
            )
        self._shape = shape
        self._axes, self._mirrored = towards_left_back_head(steps / spacing)
        depth, rows, columns = self._axes
        self.spacing = (float(spacing[depth]), float(spacing[rows]), float(spacing[columns]))
        """Millimetres from slice to slice, row to row and column to column, as they are stored."""
        finer = min(self.spacing[1:])
        self.size = (
            max(1, round(shape[rows] * self.spacing[1] / finer)),
            max(1, round(shape[columns] * self.spacing[2] / finer)),
        )
        self._is_checked = False

    def __len__(self) -> int:
        return self._shape[self._axes[0]]

    @abstractmethod
    def _plane(self, axis: int, index: int) -> Floats:
        """Hounsfield units at an index of an array axis; the two other axes keep their order."""

    def slice_of(self, index: int) -> Floats:
        """Hounsfield units [rows, columns] of a slice, turned, with the stored spacing."""
        depth, rows, columns = self._axes
        plane = self._plane(depth, len(self) - 1 - index if self._mirrored[0] else index)
        if rows > columns:
            plane = plane.T
        turned = plane[:: -1 if self._mirrored[1] else 1, :: -1 if self._mirrored[2] else 1]
        return np.ascontiguousarray(turned)

    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        self._check_units()
        for index in wanted:
            grey = scaled(windowed(self.slice_of(index)), size)
            yield index, np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)

    def _check_units(self) -> None:
        """Raise `VideoError` for values that can't be Hounsfield units; looked at once."""
        if self._is_checked:
            return
        places = np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int))
        planes = (self.slice_of(int(place)) for place in places)
        seen = np.stack([plane[::_LOOKED_STEP, ::_LOOKED_STEP] for plane in planes])
        if not np.isfinite(seen).all():
            raise VideoError(f"{self.path} has voxels that are no numbers; convert it again.")
        share = float(((seen >= AIR[0]) & (seen <= AIR[1])).mean())
        if share < LEAST_AIR:
            raise VideoError(
                f"{self.path} has values from {seen.min():g} to {seen.max():g} and hardly any like "
                f"air ({AIR[0]:g} to {AIR[1]:g}), so they are not Hounsfield units; convert the "
                "original again with its rescale slope and intercept."
            )
        self._is_checked = True


def towards_left_back_head(
    directions: Matrix,
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which array axes are depth, rows and columns, and which of the three run the other way.

    `directions` [3, 3]: column i is the unit vector of array axis i to the left, back and head.
    """
    orders = list(permutations(range(3)))
    nearness = [
        sum(abs(directions[patient, axis]) for patient, axis in zip((2, 1, 0), order, strict=True))
        for order in orders
    ]
    depth, rows, columns = orders[int(np.argmax(nearness))]
    mirrored = (directions[2, depth] < 0, directions[1, rows] < 0, directions[0, columns] < 0)
    return (depth, rows, columns), (bool(mirrored[0]), bool(mirrored[1]), bool(mirrored[2]))


def plane_of(array: npt.NDArray[Any], axis: int, index: int) -> npt.NDArray[Any]:
    """The plane at an index of an axis, as a view (`numpy.take` would copy all of the array)."""
    place: list[Any] = [slice(None)] * array.ndim
    place[axis] = index
    plane: npt.NDArray[Any] = array[tuple(place)]
    return plane


def windowed(units: Floats) -> Floats:
    """Hounsfield units -> 0 (the window's lower end and below) to 255 (its upper end and above)."""
    low, high = WINDOW
    grey: Floats = np.clip((units - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    return grey


def scaled(grey: Floats, size: tuple[int, int]) -> Floats:
    """[rows, columns] to a size: averaged along a side that shrinks, interpolated where it grows.

    Each side by itself, for OpenCV has one way for both.
    """
    for side in (0, 1):
        target = (size[0], grey.shape[1]) if side == 0 else size
        if grey.shape[side] != target[side]:
            shrinks = target[side] < grey.shape[side]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            grey = np.asarray(cv2.resize(grey, target[::-1], interpolation=how))
    return grey


def needs(package: str, path: Path) -> ConfigError:
    """What to say where the package that reads a volume is absent."""
    return ConfigError(
        f"Reading {path} needs {package}, which is not installed; `pip install 'endofm[volumes]'`."
    )
