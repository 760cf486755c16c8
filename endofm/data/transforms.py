"""Space and colour of a view: one random draw, the same for all its frames.

Brightness, contrast, saturation and greyscale are affine in RGB once the mean colour of the view is
known, so the whole of the colour augmentation travels as one 3x4 matrix beside the uint8 pixels and
is applied where the network runs. It differs from step-by-step jitter only in that values are
clamped to [0, 1] once, at the end.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

FLIP_PROBABILITY = 0.5
JITTER_PROBABILITY = 0.8
GREYSCALE_PROBABILITY = 0.2
ASPECT_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

Quirks = Literal["none", "released"]


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels; `flip` mirrors it left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(
    size: tuple[int, int],
    area: tuple[float, float],
    rng: np.random.Generator,
    quirks: Quirks = "none",
) -> Crop:
    """A random resized crop of a frame of `size` (height, width): share of its area, ratio 3/4 to
    4/3, flipped or not.

    `quirks="released"` repeats the released code, which never stops at the first valid draw:
    offsets of the last valid draw, size of the last draw.
    """
    frame_height, frame_width = size
    top, left, height, width = -1, -1, 0, 0
    low, high = math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1])
    for _ in range(CROP_TRIES):
        target = frame_height * frame_width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= frame_width and 0 < height <= frame_height:
            top = int(rng.integers(0, frame_height - height + 1))
            left = int(rng.integers(0, frame_width - width + 1))
            if quirks == "none":
                break
    if top < 0:
        height = min(frame_height, round(frame_width / ASPECT_RATIO[0]))
        width = min(frame_width, round(frame_height * ASPECT_RATIO[1]))
        top, left = (frame_height - height) // 2, (frame_width - width) // 2
    height, width = min(height, frame_height - top), min(width, frame_width - left)
    return Crop(top, left, height, width, flip=bool(rng.random() < FLIP_PROBABILITY))


def apply_crop(frames: Tensor, crop: Crop, pixels: int, antialias: bool = True) -> Tensor:
    """Cut and resize (bicubic) every frame alike: uint8 [T, H, W, 3] -> uint8 [T, pixels, pixels,
    3].
    """
    window = frames[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    planes = window.permute(
        0, 3, 1, 2
    )  # a view: channels stay last in memory, which the uint8 kernel is fastest on
    resized = F.interpolate(planes, size=(pixels, pixels), mode="bicubic", antialias=antialias)
    resized = resized.permute(0, 2, 3, 1).contiguous()
    if crop.flip:  # all rows as one picture, by OpenCV: PyTorch moves byte by byte
        rows = resized.numpy().reshape(-1, pixels, 3)
        resized = torch.from_numpy(cv2.flip(rows, 1)).reshape(resized.shape)
    return resized


def draw_color(
    mean: npt.NDArray[np.float64],
    jitter: tuple[float, float, float],
    rng: np.random.Generator,
    quirks: Quirks = "none",
    greyscale: float = GREYSCALE_PROBABILITY,
) -> npt.NDArray[np.float32]:
    """The affine map [3, 4] of one colour draw, on RGB in [0, 1].

    `mean` [3] is the view's mean colour; `jitter` the strengths of brightness, contrast and
    saturation, applied in random order with probability 0.8; `greyscale` is the chance that grey
    follows. Contrast pulls towards the mean grey of the whole view, not of each frame, so that a
    view doesn't flicker. `quirks="released"` weighs grey in BGR order.
    """
    luma = LUMA[::-1] if quirks == "released" else LUMA
    grey = np.tile(luma, (3, 1))
    matrix, bias = np.eye(3), np.zeros(3)
    if rng.random() < JITTER_PROBABILITY:
        factors = [1 + rng.uniform(-strength, strength) for strength in jitter]
        for kind in rng.permutation(3):
            factor = factors[kind]
            if kind == 0:
                matrix, bias = factor * matrix, factor * bias
            elif kind == 1:
                level = float(luma @ (matrix @ mean + bias))
                matrix, bias = factor * matrix, factor * bias + (1 - factor) * level
            else:
                mix = factor * np.eye(3) + (1 - factor) * grey
                matrix, bias = mix @ matrix, mix @ bias
    if rng.random() < greyscale:
        matrix, bias = grey @ matrix, grey @ bias
    return np.concatenate([matrix, bias[:, None]], axis=1).astype(np.float32)


def to_network_input(frames: Tensor, color: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels to what the network wants: uint8 [B, T, H, W, 3] and maps [B, 3, 4] -> float32 [B, 3,
    T, H, W].
    """
    rgb = frames.permute(0, 4, 1, 2, 3).to(torch.float32).div_(255)
    batch, _, num_frames, height, width = rgb.shape
    mixed = torch.baddbmm(color[:, :, 3:], color[:, :, :3], rgb.reshape(batch, 3, -1)).clamp_(0, 1)
    normalised = mixed.sub_(mean[:, None]).div_(std[:, None])
    return normalised.reshape(batch, 3, num_frames, height, width)
