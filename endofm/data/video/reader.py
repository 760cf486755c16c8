"""The interface of all readers, and which one opens a path."""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, get_args

import numpy as np

from endofm.data.video.base import look_at
from endofm.data.video.dicom import DICOM_SUFFIXES, DicomReader, series_files
from endofm.data.video.frames import FrameFolder
from endofm.data.video.nifti import NiftiReader, is_nifti
from endofm.data.video.shards import UnpackedClip, find_member, in_shard
from endofm.errors import ConfigError, VideoError

Decoder = Literal["pyav", "decord", "opencv"]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".ogv", ".wmv", ".asf"}
    | {".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".flv", ".h264", ".hevc"}
)


class VideoReader(Protocol):
    """Open it where it is used and close it at once (`with`); neither fork nor pickle it."""

    fps: float
    """Frames a second, the mean where the rate varies; `nan` where nothing tells it (folders,
    volumes).
    """
    size: tuple[int, int]
    """Height and width, rotation applied."""

    def __len__(self) -> int:
        """Frames that will really be shown."""

    def read(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] RGB in the order of `indices` (any order, repeats allowed).

        They are scaled to `size` (height, width) if given. Raises `VideoError` for an index out of
        range and for frames that can't be decoded or trusted.
        """

    def stream(
        self, indices: Sequence[int], size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each index (rising, no repeats) with its frame uint8 [H, W, 3], one at a time.

        One pass: no frame is decoded twice, only wanted ones become RGB, and none is kept, so that
        memory does not grow with the file. Raises `VideoError` as `read` does.
        """

    def close(self) -> None:
        """Give the file back; nothing can be read afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_video(path: Path, reader: Decoder = "pyav") -> VideoReader:
    """Open a video file; whatever `reader` is, a clip in a tar shard, a folder of frames, or a CT
    volume (a NIfTI file, a folder with a DICOM series).

    Raises `VideoError` for a file that can't be read, or not exactly by this reader.
    """
    path = Path(path)
    if reader not in get_args(Decoder):
        known = ", ".join(get_args(Decoder))
        raise ConfigError(f"There is no video reader '{reader}'; choose one of {known}.")
    status = look_at(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        return DicomReader(path) if series_files(path) else FrameFolder(path)
    if in_shard(path):
        return UnpackedClip(find_member(path), reader)
    if is_nifti(path):
        return NiftiReader(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise VideoError(f"{path} is one file of a DICOM series; give the folder that holds all.")
    # Imported where chosen: each library loads its own copy of FFmpeg.
    if reader == "decord":
        from endofm.data.video.decord import DecordReader

        return DecordReader(path)
    if reader == "opencv":
        from endofm.data.video.opencv import OpenCVReader

        return OpenCVReader(path)
    from endofm.data.video.pyav import PyAVReader

    return PyAVReader(path)
