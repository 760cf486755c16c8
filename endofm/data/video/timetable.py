"""When each frame of a file is shown."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

_MAX_REMEMBERED = 64


@dataclass(frozen=True, eq=False)
class Sparing:
    """Which frames need no decoding, for a file in which that is certain; all arrays [frames].

    Its groups are closed: no frame of one builds upon another group, and all are shown together.
    """

    order: np.ndarray
    """The place of each frame's packet in the file."""
    group: np.ndarray
    """The number of its group, rising."""
    is_spare: np.ndarray
    """Whether no other frame builds upon it."""

    def needed(self, wanted: Sequence[int]) -> np.ndarray:
        """The frames to decode in order to have the wanted ones; indices, both rising.

        Of every group, those that others may build upon, as far as the last wanted one; and the
        wanted ones.
        """
        chosen = np.asarray(wanted)
        groups = self.group[chosen]
        start, stop = np.searchsorted(self.group, [groups[0], groups[-1] + 1])
        is_needed = ~self.is_spare[start:stop]
        is_needed[chosen - start] = True
        last = np.full(groups[-1] - groups[0] + 1, -1)
        np.maximum.at(last, groups - groups[0], self.order[chosen])
        is_early = self.order[start:stop] <= last[self.group[start:stop] - groups[0]]
        return np.asarray(start + np.flatnonzero(is_needed & is_early))


@dataclass(frozen=True, eq=False)
class Timetable:
    """The frames of a file that will be shown, and what a reader must know about the file."""

    num_frames: int
    times: np.ndarray | None
    """Presentation times [frames], rising, in units of `time_base`; `None`: no reliable ones."""
    keys: np.ndarray
    """Presentation times of the key packets, rising: decoding may start there."""
    lost_before: np.ndarray
    """Indices of frames before which one is lost that they may build upon."""
    sparing: Sparing | None
    """Which frames need no decoding; `None`: not known, so decoding leaves none out."""
    is_checked: bool
    """Whether all has been looked at that ever will be: every frame, where a file is short."""
    time_base: Fraction
    fps: float
    size: tuple[int, int]
    """Height and width, rotation applied."""
    container: str
    has_edit_list: bool
    is_open_gop: bool
    is_interlaced: bool
    rounding: str
    """Why builds of FFmpeg round its colours differently; empty: they agree."""

    @property
    def seconds(self) -> np.ndarray:
        """When each frame is shown [frames], from the first one; by the mean rate where unknown."""
        if self.times is None:
            return np.arange(self.num_frames) / self.fps
        return np.asarray((self.times - self.times[0]) * float(self.time_base))

    def agrees_with(self, seconds: np.ndarray) -> bool:
        """Whether the first frames are shown at these times, counted from the first one.

        `True` where nothing is known.
        """
        if self.times is None or len(seconds) < 2:
            return True
        expected = (self.times[: len(seconds)] - self.times[0]) * float(self.time_base)
        # decord gives float32, which knows hours of video to a millisecond or two.
        tolerance = max(float(np.diff(expected).min()) / 2, 0.002)
        return bool(np.abs(seconds - seconds[0] - expected).max() < tolerance)


_Key = tuple[str, int, int]
_remembered: OrderedDict[_Key, Timetable] = OrderedDict()


def recall(path: Path) -> Timetable | None:
    """The timetable that this process has made of this very file (path, size, time of change)."""
    table = _remembered.get(_key(path))
    if table is not None:
        _remembered.move_to_end(_key(path))
    return table


def remember(path: Path, table: Timetable) -> None:
    """Keep a timetable for later openings of the file; beyond 64, the oldest are dropped."""
    _remembered[_key(path)] = table
    while len(_remembered) > _MAX_REMEMBERED:
        _remembered.popitem(last=False)


def forget() -> None:
    """Drop all timetables, as a run over more files than are kept does."""
    _remembered.clear()


def _key(path: Path) -> _Key:
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def lost_frames(times: np.ndarray | None, keys: np.ndarray) -> np.ndarray:
    """Indices of frames that come late at a constant rate and are no key frames.

    A decoder conceals a packet that was lost on the air or the wire, and so the frames after it, as
    far as the next key frame, without a word.
    """
    if times is None or len(times) < 2:
        return np.empty(0, np.int64)
    steps = np.diff(times)
    step = np.median(steps)
    if (np.abs(steps - step) < 0.1 * step).mean() < 0.9:
        return np.empty(0, np.int64)  # the rate varies by intent
    late = np.flatnonzero(steps > 1.5 * step) + 1
    return late[~np.isin(times[late], keys)]


def mean_rate(times: np.ndarray | None, time_base: Fraction, declared: Fraction | None) -> float:
    """Frames a second: as declared where the times bear it out to a percent, else as they come."""
    if times is None or len(times) < 2:
        return float(declared) if declared else float("nan")
    measured = (len(times) - 1) / (int(times[-1] - times[0]) * float(time_base))
    if declared and abs(float(declared) / measured - 1) < 0.01:
        return float(declared)
    return measured
