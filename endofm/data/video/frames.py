"""Folders of frames."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from endofm.data.video.base import BaseReader, resized
from endofm.errors import VideoError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts as people count: frame_2 before frame_10, whatever the case."""
    parts = re.split(r"(\d+)", name.casefold())
    # Text and numbers at the same place must compare: numbers first.
    return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p), (-1, 0, name))


def image_files(folder: Path) -> list[Path]:
    """The pictures that lie directly in a folder, in natural order; hidden files are left out."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(
        (f for f in files if not f.name.startswith(".") and f.is_file()),
        key=lambda f: natural_key(f.name),
    )


class FrameFiles(BaseReader):
    """Pictures as frames, in the order given; greyscale, alpha and 16 bits become RGB of 8 bits.

    Frames have the size of the first; `fps` is `nan`, for nothing in pictures tells it.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        super().__init__(path)
        self.fps = float("nan")
        self._files = files
        self.size = self._decode(0).shape[:2]

    def __len__(self) -> int:
        return len(self._files)

    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            frame = self._decode(index)
            if frame.shape[:2] != self.size:
                (height, width), (first_height, first_width) = frame.shape[:2], self.size
                raise VideoError(
                    f"{self._files[index]} is {width}x{height}, but the first frame "
                    f"is {first_width}x{first_height}; frames of one clip must have one size."
                )
            yield index, resized(frame, size)

    def _decode(self, index: int) -> np.ndarray:
        file = self._files[index]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise VideoError(f"{file} can't be read ({error.strerror}); copy it again.") from error
        # Bytes rather than a name: OpenCV can't open every unicode path on every platform.
        frame = None
        if data and not is_cut_off(data):
            frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if frame is None or frame.dtype != np.uint8:
            raise VideoError(
                f"{file} is not a whole picture; copy it again or take it out of its folder."
            )
        return np.ascontiguousarray(frame[..., ::-1])


class FrameFolder(FrameFiles):
    """The pictures of a folder as frames, in natural order."""

    def __init__(self, path: Path):
        try:
            files = image_files(path)
        except OSError as error:
            raise VideoError(
                f"{path} can't be listed ({error.strerror}); correct its permissions."
            ) from error
        if not files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoError(
                f"{path} holds no frames; a folder of frames has files that end in {suffixes}."
            )
        super().__init__(path, files)


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark; OpenCV 4 fills the rest without a word."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    return False
