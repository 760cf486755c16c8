"""What the readers share: checking indices, putting frames in the order asked for, closing."""

import operator
import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from endofm.data.loading.closing import Closing
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


def look_at(path: Path) -> os.stat_result | None:
    """What lies at a path; `None` where nothing does. Raises `VideoError` where none can tell."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # no permission, a name too long; a NUL in it
        raise VideoError(
            f"{path} can't be looked at ({getattr(error, 'strerror', None) or error}); correct its "
            "name or the permissions of its folders."
        ) from error


def check_file(path: Path) -> None:
    """Raise `VideoError` for what no decoder need be asked about."""
    status = look_at(path)
    if status is None:
        raise VideoError(f"{path} does not exist; correct the path or the manifest's root.")
    check_kind(path, status, stat.S_ISREG)
    if status.st_size == 0:
        raise VideoError(
            f"{path} is empty (0 bytes); copy it again or take it out of the manifest."
        )


def check_kind(path: Path, status: os.stat_result, *kinds: Callable[[int], bool]) -> None:
    """Raise `VideoError` for what is none of these kinds (`stat.S_ISREG`, `stat.S_ISDIR`)."""
    if not any(is_one(status.st_mode) for is_one in kinds):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise VideoError(f"{path} is no file but {what}; take it out of the manifest.")
