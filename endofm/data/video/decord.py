"""Frames through decord."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from endofm.data.video.base import BaseReader, resized
from endofm.data.video.pyav import timetable
from endofm.errors import VideoError


class DecordReader(BaseReader):
    """Well-formed files only.

    What decord is known to read wrongly is refused: MPEG streams, edit lists, open picture groups,
    colours that it makes otherwise (more than 8 bits, odd heights, interlaced), and every file
    whose number of frames or presentation times it sees differently from the container. decord is
    opened for each read and closed at once, for an idle one grows by GB.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._table = table = timetable(path, check=True)
        self.fps, self.size = table.fps, table.size
        if table.container in ("mpegts", "mpeg"):
            raise self._refusal("it is an MPEG stream, in which decord gives wrong frames")
        if table.has_edit_list:
            raise self._refusal("its edit list hides frames, which decord shows")
        if table.is_open_gop:
            raise self._refusal(
                "its picture groups are open, so that decord gives wrong frames after a seek"
            )
        if table.rounding:
            raise self._refusal(f"{table.rounding}, which decord rounds otherwise")
        if table.is_interlaced:
            raise self._refusal("it is interlaced, whose colours decord spreads over both fields")
        if table.times is None:
            raise self._refusal("its frames carry no reliable times to check them by")

    def __len__(self) -> int:
        return self._table.num_frames

    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        import decord

        try:
            video = decord.VideoReader(str(self.path.absolute()), num_threads=1)
            self._check_times(len(video), video.get_frame_timestamp(range(len(video)))[:, 0])
            frames = video.get_batch(list(wanted)).asnumpy()
            del video
        except (decord.DECORDError, RuntimeError) as error:
            raise self._refusal("decord can't decode it") from error
        if frames.shape[1:3] != self.size:
            raise self._refusal("decord sees another frame size")
        for index, frame in zip(wanted, frames, strict=True):
            yield index, resized(frame, size)

    def _check_times(self, num_frames: int, seconds: np.ndarray) -> None:
        if num_frames != len(self):
            raise self._refusal(f"decord counts {num_frames} frames where {len(self)} are shown")
        if not self._table.agrees_with(seconds):
            raise self._refusal("decord sees its frames at other times than the container gives")

    def _refusal(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.path} can't be read exactly with decord: {reason}; use the reader 'pyav'."
        )
