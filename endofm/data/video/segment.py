"""Frames of a manifest row."""

from collections.abc import Callable, Sequence

import numpy as np

from endofm.data.manifests.manifest import Segment
from endofm.data.video.reader import Decoder, open_video
from endofm.errors import VideoError


def read_segment(
    segment: Segment,
    choose: Callable[[int], Sequence[int]],
    reader: Decoder = "pyav",
    short_side: int | None = None,
) -> tuple[np.ndarray, int]:
    """Read the frames that `choose` picks once the clip's length is known; returns them and it.

    `choose` is given the number of frames L and returns indices in 0..L-1, any order, repeats
    allowed; frames uint8 [n, H, W, 3] come in that order. Frames are scaled down, never up, so that
    their shorter side has `short_side` pixels. Raises `VideoError` for a file that can't be read
    and for one that has fewer frames than the manifest promises.
    """
    with open_video(segment.file, reader) as video:
        length = checked_length(segment, len(video))
        chosen = choose(length)
        for index in chosen:
            if not 0 <= index < length:
                raise VideoError(
                    f"{segment.file}: the clip {segment.name} has {length} frames, so there is no "
                    f"frame {index} in it; choose 0 to {length - 1}."
                )
        indices = [segment.start_frame + index for index in chosen]
        return video.read(indices, scaled_size(video.size, short_side)), length


def scaled_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width scaled down, never up, so that the shorter one is `short_side`."""
    shorter = min(size)
    if short_side is None or shorter <= short_side:
        return size
    height, width = (round(side * short_side / shorter) for side in size)
    return height, width


def checked_length(segment: Segment, num_frames: int) -> int:
    """Frames of a clip in a file of `num_frames`; raises `VideoError` where it doesn't fit in."""
    if segment.stop_frame is not None and segment.stop_frame > num_frames:
        raise VideoError(
            f"{segment.file} has {num_frames} frames, but the manifest promises "
            f"{segment.stop_frame} ({segment.name}); copy the file again or make the manifest anew."
        )
    if segment.start_frame >= num_frames:
        raise VideoError(
            f"{segment.file} has {num_frames} frames, but its clip begins at frame "
            f"{segment.start_frame} ({segment.name}); make the manifest anew."
        )
    stop = num_frames if segment.stop_frame is None else segment.stop_frame
    return stop - segment.start_frame
