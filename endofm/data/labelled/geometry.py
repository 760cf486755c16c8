"""Where a clip's frames end up in the network's square: one map for frames, masks and boxes.

A map is a rotation about the middle of the frame, then a crop, then a mirror. It acts on frames as
they are decoded; masks and boxes, which have the file's own size, follow it.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from endofm.data.labelled.annotations import IGNORED, Boxes
from endofm.data.transforms import FLIP_PROBABILITY, Crop, apply_crop

ASPECT_JITTER = 4 / 3
"""A crop is between this much narrower and this much wider than what it is cut from."""
MIN_VISIBLE = 0.25
"""A box of which less than this share is left in the crop is no longer told."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """From decoded frames of `size` (height, width) to a square of `pixels`."""

    size: tuple[int, int]
    pixels: int
    crop: Crop
    degrees: float = 0.0

    def frames(self, frames: Pixels) -> Pixels:
        """uint8 [T, h, w, 3] of `size` -> [T, pixels, pixels, 3]; outside the frame is black."""
        if self.degrees:
            frames = np.stack([self._turn(frame, cv2.INTER_LINEAR, 0) for frame in frames])
        square = apply_crop(torch.from_numpy(frames), self.crop, self.pixels)
        cut: Pixels = square.numpy()
        return cut

    def masks(self, masks: Pixels) -> Pixels:
        """uint8 [T, H, W] of any size -> [T, pixels, pixels]; outside the frame doesn't count."""
        height, width = self.size
        fitted = [
            cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            for mask in masks
        ]
        if self.degrees:
            fitted = [self._turn(mask, cv2.INTER_NEAREST, IGNORED) for mask in fitted]
        crop = self.crop
        window = np.stack(fitted)[
            :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width
        ]
        planes = torch.from_numpy(window)[:, None]
        square = F.interpolate(planes, size=(self.pixels, self.pixels), mode="nearest-exact")[:, 0]
        cut: Pixels = (square.flip(-1) if crop.flip else square).contiguous().numpy()
        return cut

    def boxes(self, boxes: Boxes, size: tuple[int, int]) -> Boxes:
        """Boxes in pixels of a frame of `size` (the file's own) -> in those of the square.

        A turned box becomes the upright one around it. What reaches beyond the square is cut off,
        and a box of which less than a quarter is left is dropped.
        """
        if not len(boxes):
            return boxes
        scale = np.array([self.size[1] / size[1], self.size[0] / size[0]])
        corners = boxes.corners.astype(np.float64).reshape(-1, 2, 2) * scale
        x, y = corners[..., 0], corners[..., 1]
        points = np.stack([x[:, [0, 1, 1, 0]], y[:, [0, 0, 1, 1]]], axis=-1)  # [N, 4, 2]
        if self.degrees:
            matrix = self._matrix()
            # cv2 counts from the middle of pixels, corners from their edges
            points = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
        crop = self.crop
        points = points - [crop.left, crop.top]
        points = points * [self.pixels / crop.width, self.pixels / crop.height]
        if crop.flip:
            points[..., 0] = self.pixels - points[..., 0]
        moved = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        cut = moved.clip(0, self.pixels)
        is_left = _areas(cut) >= MIN_VISIBLE * np.maximum(_areas(moved), 1e-9)
        is_left &= (cut[:, 2:] > cut[:, :2]).all(axis=1)
        return Boxes(cut[is_left].astype(np.float32), boxes.classes[is_left])

    def _matrix(self) -> npt.NDArray[np.float64]:
        height, width = self.size
        middle = ((width - 1) / 2, (height - 1) / 2)
        matrix: npt.NDArray[np.float64] = cv2.getRotationMatrix2D(middle, self.degrees, 1.0)
        return matrix

    def _turn(self, picture: Pixels, how: int, outside: int) -> Pixels:
        turned: Pixels = cv2.warpAffine(
            picture,
            self._matrix(),
            (self.size[1], self.size[0]),
            flags=how,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(outside,) * 3,
        )
        return turned


def whole(size: tuple[int, int], pixels: int) -> Geometry:
    """The whole frame, squeezed to the square."""
    return Geometry(size, pixels, Crop(0, 0, *size, flip=False))


def square(size: tuple[int, int], pixels: int, number: int = 0, count: int = 1) -> Geometry:
    """One of `count` largest squares, side by side along the frame's longer side; 1: the middle."""
    height, width = size
    side = min(height, width)
    share = 0.5 if count == 1 else number / (count - 1)
    top, left = round((height - side) * share), round((width - side) * share)
    return Geometry(size, pixels, Crop(top, left, side, side, flip=False))


def draw_geometry(
    size: tuple[int, int],
    pixels: int,
    area: tuple[float, float],
    degrees: float,
    flip: bool,
    keeps_square: bool,
    rng: np.random.Generator,
) -> Geometry:
    """A random map: a share of the area, turned by at most `degrees`, mirrored or not.

    With `keeps_square` the crop is cut from the largest square that fits and has nearly its shape,
    so that nothing is squeezed; else it has nearly the shape of the frame, as `whole` has.
    """
    height, width = size
    side = min(size)
    full_height, full_width = (side, side) if keeps_square else size
    share = math.sqrt(rng.uniform(*area))
    jitter = math.sqrt(math.exp(rng.uniform(-1, 1) * math.log(ASPECT_JITTER)))
    crop_height = min(max(round(full_height * share / jitter), 1), height, full_height)
    crop_width = min(max(round(full_width * share * jitter), 1), width, full_width)
    if area == (1.0, 1.0):
        crop_height, crop_width = full_height, full_width
    top = int(rng.integers(0, height - crop_height + 1))
    left = int(rng.integers(0, width - crop_width + 1))
    turn = float(rng.uniform(-degrees, degrees))
    mirrored = bool(rng.random() < FLIP_PROBABILITY)
    crop = Crop(top, left, crop_height, crop_width, flip=flip and mirrored)
    return Geometry(size, pixels, crop, turn)


def _areas(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    return areas
