"""How fast clips are read, one process, with each reader."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.sampling import center_indices
from endofm.data.video import Decoder, read_segment


@dataclass(frozen=True)
class Speed:
    """Clips a second of one core's time, when all frames are read and when some are."""

    reader: str
    all_frames: float
    some_frames: float


def reading_speed(
    segments: Sequence[Segment], readers: Sequence[Decoder], num_frames: int, seconds: float
) -> list[Speed]:
    """Read clips in turn for about `seconds` a figure; the first one, which warms up, counts not.

    A folder of frames has one reader, whatever is asked for. Raises `VideoError`.
    """
    is_folder = Path(segments[0].file).is_dir()
    names: Sequence[tuple[str, Decoder]] = (
        [("frame folder", "pyav")] if is_folder else [(name, name) for name in readers]
    )
    return [
        Speed(
            label,
            _clips_a_second(segments, reader, None, seconds),
            _clips_a_second(segments, reader, num_frames, seconds),
        )
        for label, reader in names
    ]


def _clips_a_second(
    segments: Sequence[Segment], reader: Decoder, num_frames: int | None, seconds: float
) -> float:
    def choose(length: int) -> list[int]:
        return list(range(length)) if num_frames is None else center_indices(length, num_frames)

    read_segment(segments[0], choose, reader)
    # The processor's time, not the clock's: what else runs on the machine does not count.
    start, number = time.process_time(), 0
    while time.process_time() - start < seconds or number < 2:
        read_segment(segments[number % len(segments)], choose, reader)
        number += 1
    return number / (time.process_time() - start)
