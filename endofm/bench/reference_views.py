"""The plain reference, data: all frames of a clip decoded, views cut from floats step by step.

The draws are ours, in our order, so that both cut the same views.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import DataConfig
from endofm.data.pretraining.views import STATISTICS, ViewsConfig, draw_indices, view_rng
from endofm.data.transforms import (
    JITTER_PROBABILITY,
    LUMA,
    Crop,
    draw_crop,
)
from endofm.data.video import read_segment


def plain_clip_views(
    segment: Segment, views: ViewsConfig, data: DataConfig, seed: int, epoch: int
) -> list[Tensor]:
    """The views of a clip for the network: float32 [3, T, H, W] each. Raises `VideoError`."""
    rng = view_rng(seed, epoch, segment.key)
    frames, length = read_segment(
        segment, lambda length: range(length), data.reader, data.short_side_pixels
    )
    indices = draw_indices(length, views, rng)
    return plain_cut_views(torch.from_numpy(frames), indices, views, rng)


def plain_cut_views(
    frames: Tensor, indices: Sequence[Sequence[int]], config: ViewsConfig, rng: np.random.Generator
) -> list[Tensor]:
    """Cut every view from the frames uint8 [F, H, W, 3] of a clip: float32 [3, T, H, W] each."""
    low, middle, high = config.crop_areas
    mean, std = (
        torch.tensor(values)[:, None, None, None] for values in STATISTICS[config.statistics]
    )
    views = []
    for number, (taken, (_, pixels)) in enumerate(zip(indices, config.shapes, strict=True)):
        area = (middle, high) if number < len(config.global_frames) else (low, middle)
        crop = draw_crop((frames.shape[1], frames.shape[2]), area, rng, config.quirks)
        window = frames[list(taken)].float() / 255  # [T, H, W, 3]
        window = plain_crop(window.permute(0, 3, 1, 2), crop, pixels, config.quirks == "none")
        colored = plain_color(window.permute(1, 0, 2, 3), config, rng).clamp(0, 1)
        views.append((colored - mean) / std)
    return views


def plain_crop(frames: Tensor, crop: Crop, pixels: int, antialias: bool) -> Tensor:
    """Bicubic in float: [T, 3, H, W] -> [T, 3, pixels, pixels]."""
    window = frames[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    resized = F.interpolate(window, size=(pixels, pixels), mode="bicubic", antialias=antialias)
    resized = resized.clamp(0, 1)  # as pixels are
    return resized.flip(-1) if crop.flip else resized


def plain_color(frames: Tensor, config: ViewsConfig, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation, grey, one after the other: [3, T, H, W], RGB in [0, 1]."""
    luma = torch.tensor(LUMA if config.quirks == "none" else LUMA[::-1].copy()).float()
    *jitter, greyscale = config.color_jitter
    if rng.random() < JITTER_PROBABILITY:
        factors = [1 + rng.uniform(-strength, strength) for strength in jitter]
        for kind in rng.permutation(3):
            factor = factors[kind]
            if kind == 0:
                frames = frames * factor
            elif kind == 1:
                level = plain_grey(frames, luma).mean()
                frames = factor * frames + (1 - factor) * level
            else:
                frames = factor * frames + (1 - factor) * plain_grey(frames, luma)
    if rng.random() < greyscale:
        frames = plain_grey(frames, luma).expand_as(frames)
    return frames


def plain_grey(frames: Tensor, luma: Tensor) -> Tensor:  # [3, T, H, W] -> [1, T, H, W]
    """The frames without colour."""
    return (frames * luma[:, None, None, None]).sum(dim=0, keepdim=True)
