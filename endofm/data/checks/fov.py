"""The field of view: where in the frames the endoscope's picture is.

Processors put the picture on a black ground, round or with cut corners, often beside text and small
pictures. What stays dark in every frame is ground; the largest connected light area is the field.
Thin bridges and small islands, such as text on the ground, are no part of it. Text over the picture
itself can't be cropped away by a rectangle and stays.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_DARK = 24  # of 255; ground is seldom pure black after coding
_SIDE = 256  # pixels of the longer side on which the field is sought
_SMALLEST = 0.15  # share of the frame; less light than this is no field
_EDGE = 0.12  # share of a line that must be light for it to belong to the field


@dataclass(frozen=True)
class Field:
    """A rectangle of a frame: `left`, `top` included, `right`, `bottom` excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def crop(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The field of a frame [H, W, ...], without copying."""
        return frame[self.top : self.bottom, self.left : self.right]


def find_field(frames: npt.NDArray[np.uint8]) -> Field:
    """The rectangle around the field of view of frames uint8 [T, H, W, 3] spread over a video.

    All of the frame where no ground can be told from it: frames that are dark throughout, or light
    to the edges.
    """
    height, width = frames.shape[1:3]
    scale = min(1.0, _SIDE / max(height, width))
    small = (max(8, round(width * scale)), max(8, round(height * scale)))
    # Ground is what hardly any frame lights up: menus, flashes and coding noise light it up in
    # some, and the dark end of a lumen moves.
    light = np.stack([cv2.resize(f.max(-1), small, interpolation=cv2.INTER_AREA) for f in frames])
    is_light = (np.percentile(light, 75, axis=0) > _DARK).astype(np.uint8)
    opened = cv2.morphologyEx(is_light, cv2.MORPH_OPEN, _disk(max(3, max(small) // 32)))
    number, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if number < 2:
        return Field(0, 0, width, height)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[largest, cv2.CC_STAT_AREA] < _SMALLEST * opened.size:
        return Field(0, 0, width, height)
    left, right = _extent((labels == largest).mean(0))
    top, bottom = _extent((labels == largest).mean(1))
    across, down = width / small[0], height / small[1]
    return Field(
        max(0, int(left * across)),
        max(0, int(top * down)),
        min(width, int(np.ceil(right * across))),
        min(height, int(np.ceil(bottom * down))),
    )


def _disk(radius: int) -> npt.NDArray[np.uint8]:
    size = 2 * (radius // 2) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _extent(share: npt.NDArray[np.float64]) -> tuple[int, int]:
    """First line of the field and the one after its last."""
    inside = np.flatnonzero(share > _EDGE * share.max())
    return int(inside[0]), int(inside[-1]) + 1
