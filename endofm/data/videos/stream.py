"""Whatever holds frames, as clips that slide over it: one pass, frames not kept."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from endofm.data.video import VideoReader, open_video
from endofm.data.video.frames import FrameFiles
from endofm.data.videos.windows import (
    Clip,
    Sliding,
    Spacing,
    Window,
    gather,
    gather_until_end,
    windows_of_times,
)
from endofm.errors import ConfigError, VideoError

Frame = TypeVar("Frame")
Source: TypeAlias = str | Path | Sequence[str | Path] | Iterable[Any]
"""A video file, a folder of pictures, a list of pictures, or frames: an array or an iterable.

Frames are uint8: RGB [H, W, 3], grey [H, W] or [H, W, 1], or RGBA [H, W, 4] without its alpha.
"""


@dataclass(frozen=True)
class Recorded:
    """A source whose length is known: all windows are there before a frame is read."""

    name: str
    spacing: Spacing
    has_rate: bool
    """Whether windows are in seconds; else they count frames."""
    windows: list[Window]
    reader: VideoReader

    @property
    def num_clips(self) -> int | None:
        """Clips to come."""
        return len(self.windows)

    def clips(
        self, prepare: Callable[[np.ndarray], Frame], windows: Sequence[Window] | None = None
    ) -> Iterator[Clip[Frame]]:
        """Clips in order, of all windows or some; can be asked again. Raises `VideoError`."""
        windows = self.windows if windows is None else windows
        wanted = sorted({index for window in windows for index in window.indices})
        yield from gather(self.reader.stream(wanted), windows, prepare)


@dataclass(frozen=True)
class Live:
    """A source that ends when it ends."""

    name: str
    spacing: Spacing
    has_rate: bool
    frames: Iterable[Any]

    @property
    def num_clips(self) -> int | None:
        """Nobody knows."""
        return None

    def clips(self, prepare: Callable[[np.ndarray], Frame]) -> Iterator[Clip[Frame]]:
        """Clips in order. Raises `VideoError` where there is no frame, or what is none."""
        is_empty = True
        for clip in gather_until_end(_pictures(self.frames), self.spacing, prepare):
            is_empty = False
            yield clip
        if is_empty:
            raise VideoError(f"{self.name} holds no frames; give at least one.")


@contextmanager
def open_clips(source: Source, sliding: Sliding) -> Iterator[Recorded | Live]:
    """Open a source, to take clips from it within the `with` block.

    Raises `VideoError` for a file that can't be read and for seconds where nothing tells the rate,
    `ConfigError` for what is no source.
    """
    if isinstance(source, (str, Path)) or _is_pictures(source):
        with _reader(source) as reader:
            yield _recorded(source, reader, sliding)
        return
    if not isinstance(source, Iterable):
        raise ConfigError(
            "A source is a video file, a folder or list of pictures, an array or an iterable of "
            f"frames, not a {type(source).__name__}."
        )
    shape = getattr(source, "shape", None)
    if shape is not None and (len(shape) not in (3, 4) or (len(shape) == 3 and shape[-1] <= 4)):
        raise ConfigError(f"Frames are [T, H, W, 3] or grey [T, H, W], not {list(shape)}.")
    name = "the array" if shape is not None else "the iterable"
    fps = sliding.source_fps or math.nan
    yield Live(name, sliding.at_rate(fps, name), not math.isnan(fps), source)


def _is_pictures(source: Source) -> bool:
    return (
        isinstance(source, Sequence)
        and len(source) > 0
        and all(isinstance(item, (str, Path)) for item in source)
    )


def _reader(source: Any) -> VideoReader:
    if isinstance(source, (str, Path)):
        return open_video(Path(source))
    files = [Path(item) for item in source]
    return FrameFiles(files[0].parent, files)


def _recorded(source: Any, reader: VideoReader, sliding: Sliding) -> Recorded:
    is_file = isinstance(source, (str, Path)) and not Path(source).is_dir()
    name = str(source) if isinstance(source, (str, Path)) else f"a list of {len(source)} pictures"
    fps = reader.fps
    if math.isnan(fps):
        fps = sliding.source_fps or math.nan
    elif sliding.source_fps is not None:
        raise ConfigError(
            f"{name} tells its own times ({fps:g} frames a second); leave out source_fps."
        )
    spacing = sliding.at_rate(fps, name)
    if is_file and not math.isnan(reader.fps):
        from endofm.data.video.pyav import timetable  # loads FFmpeg, which pictures don't need

        times = timetable(Path(source)).seconds
    else:
        times = np.arange(len(reader)) / spacing.fps
    windows = windows_of_times(spacing, times)
    return Recorded(name, spacing, not math.isnan(fps), windows, reader)


def _pictures(frames: Iterable[Any]) -> Iterator[np.ndarray]:
    """Frames as RGB; `VideoError` for one that is none or has another size than the first."""
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        picture = np.asarray(frame)
        if picture.ndim == 2:
            picture = picture[..., None]
        is_picture = picture.ndim == 3 and picture.shape[-1] in (1, 3, 4) and picture.size > 0
        if picture.dtype != np.uint8 or not is_picture:
            raise VideoError(
                f"Frame {number} is {picture.dtype} {list(np.shape(frame))}; frames are uint8, "
                "[H, W, 3] RGB, [H, W] grey or [H, W, 4] RGBA."
            )
        size = size or picture.shape[:2]
        if picture.shape[:2] != size:
            raise VideoError(
                f"Frame {number} is {picture.shape[1]}x{picture.shape[0]}, but the first is "
                f"{size[1]}x{size[0]}; frames of one source must have one size."
            )
        yield np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture[..., :3]
