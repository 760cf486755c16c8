"""What one decoding of a clip tells: a hash of its content, small grey pictures, signs of faults.

`endofm corpus check`, `leaks` and `report` all start from fingerprints, so a clip is decoded once.
"""

import hashlib
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.checks.ordering import Ordering, assess_order
from endofm.data.manifests.manifest import Segment
from endofm.data.video import open_video
from endofm.data.video.segment import checked_length

FORMAT = 1
"""Raise it when the same frames give another fingerprint."""
SIDE = 32
"""Side of the grey pictures; the whole frame is squeezed into the square."""
THUMBS_PER_SECOND = 8
_ORDER_SIDE = 16
_FROZEN_LEVELS = 1  # of 255: a picture this near to the one before shows no change
_DARK_LEVEL = 24  # of 255: a frame whose brightest parts stay below it is black
_FLAT_LEVELS = 6  # of 255: from the darkest to the brightest part of a frame of one colour

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fingerprint:
    """What one decoding of a clip tells."""

    num_frames: int
    """Frames of the clip, all of them decoded."""
    fps: float
    """Frames a second; `nan` where nothing tells it."""
    size: tuple[int, int]
    """Height and width of a frame."""
    content: str
    """A hash of all pixels of all frames: equal for clips that show the same to the last bit."""
    thumb_step: int
    """`thumbs` shows every frame whose number is a multiple of it."""
    thumbs: Grey
    """Small grey pictures, uint8 [S, 32, 32]."""
    frozen_share: float
    """Share of the frames that repeat the frame before; 0 for a clip of one frame."""
    dark_share: float
    """Share of the frames that are black or of one colour."""
    ordering: Ordering
    """How plausible the order of the frames is."""


def fingerprint(segment: Segment) -> Fingerprint:
    """Decode a clip once, frame by frame, and describe it.

    Beside small pictures, no frame is kept. Raises `VideoError` where the clip can't be decoded or
    is shorter than the manifest promises.
    """
    with open_video(segment.file) as video:
        length = checked_length(segment, len(video))
        step = 1 if math.isnan(video.fps) else max(1, round(video.fps / THUMBS_PER_SECOND))
        content = hashlib.blake2b(repr(video.size).encode(), digest_size=16)
        thumbs: list[np.ndarray] = []
        tiny = np.empty((length, _ORDER_SIDE, _ORDER_SIDE), np.uint8)
        num_frozen = num_dark = 0
        previous: np.ndarray | None = None
        indices = range(segment.start_frame, segment.start_frame + length)
        for number, (_, frame) in enumerate(video.stream(indices)):
            content.update(np.ascontiguousarray(frame).data)
            thumb = thumbnail(frame)
            tiny[number] = cv2.resize(
                thumb, (_ORDER_SIDE, _ORDER_SIDE), interpolation=cv2.INTER_AREA
            )
            if number % step == 0:
                thumbs.append(thumb)
            num_dark += _is_dark(thumb)
            if previous is not None:
                num_frozen += int(cv2.absdiff(thumb, previous).max() <= _FROZEN_LEVELS)
            previous = thumb
        return Fingerprint(
            num_frames=length,
            fps=video.fps,
            size=(video.size[0], video.size[1]),
            content=content.hexdigest(),
            thumb_step=step,
            thumbs=np.stack(thumbs),
            frozen_share=num_frozen / max(1, length - 1),
            dark_share=num_dark / length,
            ordering=assess_order(tiny),
        )


def thumbnail(frame: np.ndarray) -> Grey:
    """A frame uint8 [H, W, 3] as a small grey picture [32, 32], by area averaging."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _is_dark(thumb: Grey) -> bool:
    low, high = np.percentile(thumb, [2, 98])
    return bool(high < _DARK_LEVEL or high - low < _FLAT_LEVELS)
