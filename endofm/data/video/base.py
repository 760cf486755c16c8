"""What the readers share: checking indices, putting frames in the order asked for, closing."""

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from endofm.errors import VideoError


class BaseReader(ABC):
    """A source of frames; sets `fps` and `size` and supplies `_frames`."""

    fps: float
    size: tuple[int, int]

    def __init__(self, path: Path):
        self.path = path
        self._process = os.getpid()
        self._is_open = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each wanted index (rising, no repeats) with its frame, uint8 [H, W, 3] of that size."""

    def read(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] RGB in the order of `indices`; see `VideoReader`."""
        self._check_usable()
        places: dict[int, list[int]] = {}
        for place, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < len(self):
                raise VideoError(
                    f"{self.path} has {len(self)} frames, so there is no frame {index}; "
                    f"ask for 0 to {len(self) - 1}."
                )
            places.setdefault(index, []).append(place)
        size = size or self.size
        frames = np.empty((len(indices), *size, 3), np.uint8)
        if places:
            for index, frame in self._frames(sorted(places), size):
                for place in places.pop(index):
                    frames[place] = frame
        if places:
            raise VideoError(
                f"{self.path} ends before its frame {min(places)}; copy or encode it again."
            )
        return frames

    def close(self) -> None:
        """Give the file back."""
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if not self._is_open:
            raise VideoError(
                f"{self.path} is closed already; read inside the `with` block that opens it."
            )
        if os.getpid() != self._process:
            raise VideoError(
                f"{self.path} was opened before a fork; open it in the process that reads it."
            )


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGB [H, W, 3] by area averaging; unchanged where it has that size already."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_AREA))


def check_file(path: Path) -> None:
    """Raise `VideoError` for what no decoder need be asked about."""
    if not path.is_file():
        raise VideoError(f"{path} does not exist; correct the path or the manifest's root.")
    if path.stat().st_size == 0:
        raise VideoError(
            f"{path} is empty (0 bytes); copy it again or take it out of the manifest."
        )
