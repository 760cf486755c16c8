"""Clips that slide over a video: which frames each takes, and taking them in one pass.

Clip k begins at k steps and lasts its length; its frames are those shown in the middle of equal
parts of it, as `center_indices` has them. Clips follow until one reaches the end of the video. That
one repeats the last frame where the video is over, and so does the only clip of a shorter video. A
rest of the video shorter than half the spacing of a clip's frames gets no clip of its own.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from endofm.errors import ConfigError, VideoError

CLIP_SECONDS = 5.0
"""As `endofm manifest` cuts videos for pretraining."""
_ROUNDING = 1e-6  # seconds

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Sliding:
    """How clips are to lie on a video; raises `ConfigError` for what can't be."""

    num_frames: int
    """Frames of a clip."""
    clip_seconds: float | None = None
    """Length of a clip; `None`: 5 s, or frames in a row where nothing tells the source's rate."""
    step_seconds: float | None = None
    """From the start of a clip to that of the next; `None`: its length, so that they touch."""
    source_fps: float | None = None
    """Frames a second of a source that does not tell it (arrays, pictures)."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "clip_seconds", "step_seconds", "source_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be a number above 0.")

    def at_rate(self, fps: float, name: str) -> "Spacing":
        """For the source `name` of that rate; `nan`: nothing tells it, and frames are counted.

        Raises `VideoError` where seconds are asked for and nothing tells the rate.
        """
        if not math.isnan(fps):
            length = self.clip_seconds or CLIP_SECONDS
            return Spacing(self.num_frames, length, self.step_seconds or length, fps)
        for option in ("clip_seconds", "step_seconds"):
            if getattr(self, option) is not None:
                raise VideoError(
                    f"Nothing tells how many frames a second {name} has, so {option} means "
                    "nothing there; give source_fps as well, or leave it out."
                )
        return Spacing(self.num_frames, self.num_frames, self.num_frames, 1.0)


@dataclass(frozen=True)
class Spacing:
    """How clips lie on one video: length and step in seconds, or in frames at a rate of 1."""

    num_frames: int
    length: float
    step: float
    fps: float

    @property
    def half(self) -> float:
        """From the start of a clip to its first frame, and half way from a frame to the next."""
        return self.length / self.num_frames / 2

    def windows(self, index_at: Callable[[np.ndarray], np.ndarray]) -> Iterator["Window"]:
        """Windows without end; `index_at` tells which frames are shown at given times."""
        offsets = self.half + np.arange(self.num_frames) * (2 * self.half) + _ROUNDING
        for number in itertools.count():
            start = number * self.step
            indices = index_at(start + offsets)
            yield Window(start, start + self.length, tuple(indices.tolist()))


@dataclass(frozen=True)
class Window:
    """Where a clip lies, counted from the first frame, and which frames it takes."""

    start: float
    stop: float
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Clip(Generic[Frame]):
    """A window with its frames."""

    window: Window
    frames: list[Frame] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether all frames are there."""
        return len(self.frames) == len(self.window.indices)


def windows_of_times(spacing: Spacing, times: np.ndarray) -> list[Window]:
    """All windows of a video whose frames are shown at `times`, counted from the first."""
    end = float(times[-1]) + 1 / spacing.fps
    follows = _EndRule(spacing)
    windows = []
    for window in spacing.windows(lambda at: np.searchsorted(times, at, "right") - 1):
        if not follows(window, end):
            break
        windows.append(replace(window, stop=min(window.stop, end)))
    return windows


def gather(
    frames: Iterable[tuple[int, np.ndarray]],
    windows: Iterable[Window],
    prepare: Callable[[np.ndarray], Frame],
) -> Iterator[Clip[Frame]]:
    """Each window's clip as soon as its frames have come; `frames` rise and hold all wanted ones.

    A frame is prepared once, and kept only until the last clip that takes it is given out.
    """
    upcoming = iter(windows)
    following = next(upcoming, None)
    waiting: deque[Clip[Frame]] = deque()
    for index, picture in frames:
        while following is not None and following.indices[0] <= index:
            waiting.append(Clip(following))
            following = next(upcoming, None)
        _give(waiting, index, picture, prepare)
        while waiting and waiting[0].is_full:
            yield waiting.popleft()


def gather_until_end(
    frames: Iterable[np.ndarray], spacing: Spacing, prepare: Callable[[np.ndarray], Frame]
) -> Iterator[Clip[Frame]]:
    """The clips of frames that come at a constant rate until they end, nobody knows when.

    The same clips as those of `windows_of_times`. Beside the frames of clips that are not full yet,
    the newest frame is kept.
    """
    fps, follows = spacing.fps, _EndRule(spacing)
    upcoming = spacing.windows(lambda at: np.floor(at * fps).astype(np.int64))
    following = next(upcoming)
    waiting: deque[Clip[Frame]] = deque()
    end, picture = 0.0, None
    for index, picture in enumerate(frames):
        end = (index + 1) / fps
        while following.indices[0] <= index:
            waiting.append(Clip(following))
            following = next(upcoming)
        _give(waiting, index, picture, prepare)
        # A full clip may turn out to reach beyond the end, or not to be needed to reach it.
        while waiting and waiting[0].is_full and waiting[0].window.stop <= end + _ROUNDING:
            if not follows(waiting[0].window, end):
                break
            yield waiting.popleft()
    if picture is None:
        return
    last = prepare(picture)
    for clip in waiting or [Clip[Frame](following)]:
        if not follows(clip.window, end):
            return
        missing = spacing.num_frames - len(clip.frames)
        window = replace(clip.window, stop=min(clip.window.stop, end))
        yield Clip(window, clip.frames + [last] * missing)


class _EndRule:
    """Whether another clip follows in a video that lasts at least until `end`."""

    def __init__(self, spacing: Spacing):
        self._shortest_rest = spacing.half + _ROUNDING
        self._reached: float | None = None

    def __call__(self, window: Window, end: float) -> bool:
        if self._reached is not None:
            rest = end - max(window.start, self._reached)
            if rest <= self._shortest_rest:
                return False
        self._reached = window.stop
        return True


def _give(
    waiting: Iterable[Clip[Frame]],
    index: int,
    picture: np.ndarray,
    prepare: Callable[[np.ndarray], Frame],
) -> None:
    """Append a frame to the clips that take it, as often as they do."""
    prepared: Frame | None = None
    for clip in waiting:
        while not clip.is_full and clip.window.indices[len(clip.frames)] == index:
            prepared = prepare(picture) if prepared is None else prepared
            clip.frames.append(prepared)
