"""What the readers share: checking indices, putting frames in the order asked for, closing."""

import operator
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from endofm.data.closing import Closing
from endofm.errors import VideoError


class BaseReader(Closing):
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
            self._check_index(index)
            places.setdefault(index, []).append(place)
        size = size or self.size
        frames = np.empty((len(indices), *size, 3), np.uint8)
        for index, frame in self._whole(sorted(places), size):
            for place in places[index]:
                frames[place] = frame
        return frames

    def stream(
        self, indices: Sequence[int], size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each index (rising, no repeats) with its frame, one at a time; see `VideoReader`."""
        self._check_usable()
        wanted = [operator.index(index) for index in indices]
        if any(later <= earlier for earlier, later in pairwise(wanted)):
            raise VideoError(
                f"{self.path} is streamed in the order shown; ask for rising indices without "
                "repeats, or use `read`."
            )
        for index in wanted[:1] + wanted[-1:]:
            self._check_index(index)
        yield from self._whole(wanted, size or self.size)

    def close(self) -> None:
        """Give the file back."""
        self._is_open = False

    def _whole(self, wanted: list[int], size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """`_frames`, of which every wanted one must come."""
        num_found = 0
        if wanted:
            for pair in self._frames(wanted, size):
                num_found += 1
                yield pair
        if num_found < len(wanted):
            raise VideoError(
                f"{self.path} ends before its frame {wanted[num_found]}; copy or encode it again."
            )

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise VideoError(
                f"{self.path} has {len(self)} frames, so there is no frame {index}; "
                f"ask for 0 to {len(self) - 1}."
            )

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
