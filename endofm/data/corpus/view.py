"""What a frame shows, told roughly from its colours: the body, nothing, or the room."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

BODY, BLANK, OUTSIDE = "body", "blank", "outside"

_SIDE = 64  # pixels
_LIT = 40  # of 255
_MIN_LIT_SHARE = 0.02
_MIN_SPREAD = 6.0  # standard deviation of brightness, in levels
# Of the 337 real frames looked at (colonoscopy, laparoscopy, menus), none has less than 0.53.
_MIN_RED_SHARE = 0.35


def what_is_shown(frame: npt.NDArray[np.uint8]) -> str:
    """`blank` for a dark or one-coloured frame, `outside` where hardly anything lit is reddish.

    Mucosa, blood and organs are reddish under white light; walls, drapes, gowns and faults of the
    signal are not. Under narrow-band light this says little.
    """
    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    lit = small.max(-1) > _LIT
    if lit.mean() < _MIN_LIT_SHARE or small.mean(-1).std() < _MIN_SPREAD:
        return BLANK
    is_red = (red > 1.08 * green) & (red > blue) & lit
    return OUTSIDE if is_red.sum() < _MIN_RED_SHARE * lit.sum() else BODY


def steadied(views: Sequence[str], min_frames: int) -> list[str]:
    """The same with every stretch shorter than `min_frames` taken over from the one before."""
    steady: list[str] = []
    start = 0
    for stop in range(1, len(views) + 1):
        if stop < len(views) and views[stop] == views[start]:
            continue
        is_short = stop - start < min_frames
        steady += [steady[-1] if is_short and steady else views[start]] * (stop - start)
        start = stop
    return steady
