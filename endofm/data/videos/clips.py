"""Clips without augmentation: what a finished model is shown."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.sampling import center_indices
from endofm.data.video import read_segment


def center_clip(segment: Segment, num_frames: int, pixels: int) -> npt.NDArray[np.uint8]:
    """Frames spread evenly over a segment, short side to `pixels`, the middle square of each.

    uint8 [num_frames, pixels, pixels, 3]; a shorter segment repeats frames. Raises `VideoError`.
    """
    frames, _ = read_segment(segment, lambda length: center_indices(length, num_frames))
    return center_square(frames, pixels)


def center_square(frames: npt.NDArray[np.uint8], pixels: int) -> npt.NDArray[np.uint8]:
    """The middle square of frames uint8 [T, H, W, 3], scaled to [T, pixels, pixels, 3]."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    scale = pixels / min(planes.shape[-2:])
    size = [max(pixels, round(side * scale)) for side in planes.shape[-2:]]
    resized = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    top, left = (size[0] - pixels) // 2, (size[1] - pixels) // 2
    square = resized[:, :, top : top + pixels, left : left + pixels]
    array: npt.NDArray[np.uint8] = square.permute(0, 2, 3, 1).contiguous().numpy()
    return array
