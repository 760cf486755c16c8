"""Frames through OpenCV."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from endofm.data.video.base import BaseReader, resized
from endofm.data.video.pyav import timetable
from endofm.errors import VideoError


class OpenCVReader(BaseReader):
    """Sequential, from the first frame to the last one wanted; OpenCV's seeking is not exact.

    Refused: interlaced video (OpenCV gives black frames for it), colours that it rounds otherwise
    (more than 8 bits, odd heights), streams that stop before the
    container's end, and frames that don't come at the times that the container gives.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._table = timetable(path, check=True)
        self.fps, self.size = self._table.fps, self._table.size
        if self._table.rounding:
            raise self._refusal(f"{self._table.rounding}, which OpenCV rounds otherwise")
        if self._table.is_interlaced:
            raise self._refusal("it is interlaced, for which OpenCV gives black frames")

    def __len__(self) -> int:
        return self._table.num_frames

    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise self._refusal("OpenCV can't open it")
            remaining, milliseconds = set(wanted), []
            for index in range(wanted[-1] + 1):
                if not capture.grab():
                    raise self._refusal(f"OpenCV stops before frame {index} of {len(self)}")
                milliseconds.append(capture.get(cv2.CAP_PROP_POS_MSEC))
                if index in remaining:
                    yield index, resized(self._retrieved(capture, index), size)
            if not self._table.agrees_with(np.array(milliseconds) / 1000):
                raise self._refusal(
                    "OpenCV sees its frames at other times than the container gives"
                )
        finally:
            capture.release()

    def _retrieved(self, capture: cv2.VideoCapture, index: int) -> np.ndarray:
        is_there, frame = capture.retrieve()
        if not is_there or frame is None:
            raise self._refusal(f"OpenCV can't decode frame {index}")
        if frame.shape[:2] != self.size:
            raise self._refusal("OpenCV sees another frame size")
        return np.ascontiguousarray(frame[..., ::-1])

    def _refusal(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.path} can't be read exactly with OpenCV: {reason}; use the reader 'pyav'."
        )
