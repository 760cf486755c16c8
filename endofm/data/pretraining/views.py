"""A clip's global and local views: time first, then space, then colour.

The randomness of a clip's views is a function of (seed, pass over the corpus, segment), so that any
augmented clip can be made again. Frame indices are decided before anything is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endofm.data.pretraining.sampling import global_indices, local_indices
from endofm.data.transforms import GREYSCALE_PROBABILITY, Crop, apply_crop, draw_color, draw_crop
from endofm.errors import ConfigError

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "kinetics": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
"""Mean and standard deviation of RGB in [0, 1], by name."""


@dataclass(frozen=True)
class ViewsConfig:
    """How many views a clip has, and how each is cut. The defaults are the released ten views."""

    global_frames: tuple[int, ...] = (8, 16)
    """Frames of each global view (seen by teacher and student)."""
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    """Frames of each local view (seen by the student); 8 8 8 8 8 8 8 8 is the older, fixed scheme.
    """
    global_pixels: int = 224
    """Height and width of a global view."""
    local_pixels: int = 96
    """Height and width of a local view."""
    crop_areas: tuple[float, float, float] = (0.05, 0.4, 1.0)
    """Shares of the frame's area: a local crop is between the first two, a global one between the
    last two.
    """
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, GREYSCALE_PROBABILITY)
    """Strength of brightness, contrast and saturation jitter, and the chance of a grey view."""
    statistics: Literal["imagenet", "half", "kinetics"] = "imagenet"
    """Mean and standard deviation taken from the pixels: ImageNet's, 0.5/0.5, or 0.45/0.225."""
    quirks: Literal["none", "released"] = "none"
    """`released` repeats the released code's faults (crop draw, BGR grey, no antialiasing, fixed
    shift on short clips, drop path in the teacher).
    """

    def __post_init__(self) -> None:
        """Refuse what can't be cut, naming the value."""
        if not self.global_frames or len(self.global_frames) + len(self.local_frames) < 2:
            raise ConfigError(
                f"views.global_frames {list(self.global_frames)} with views.local_frames "
                f"{list(self.local_frames)} leave "
                "nothing to match; give at least one global view and two views in all."
            )
        for name in ("global_frames", "local_frames"):
            if any(frames < 1 for frames in getattr(self, name)):
                raise ConfigError(
                    f"views.{name} is {list(getattr(self, name))}; every view needs at least one "
                    f"frame."
                )
        low, middle, high = self.crop_areas
        if not 0 < low <= middle <= high <= 1:
            raise ConfigError(
                f"views.crop_areas is {list(self.crop_areas)}; give three rising shares between 0 "
                f"and 1."
            )
        *strengths, grey = self.color_jitter
        if any(not 0 <= strength < 1 for strength in strengths) or not 0 <= grey <= 1:
            raise ConfigError(
                f"views.color_jitter is {list(self.color_jitter)}; each strength lies in [0, 1), "
                "the chance of grey (the last) from 0 to 1."
            )

    @property
    def num_views(self) -> int:
        """Views of a clip, global and local."""
        return len(self.global_frames) + len(self.local_frames)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(frames, pixels) of every view, globals first."""
        return [(frames, self.global_pixels) for frames in self.global_frames] + [
            (frames, self.local_pixels) for frames in self.local_frames
        ]


class View(NamedTuple):
    """One view of one clip: `frames` uint8 [T, H, W, 3], `color` float32 [3, 4], the affine map
    still to be applied.
    """

    frames: Tensor
    color: Tensor


def view_rng(seed: int, epoch: int, key: int) -> np.random.Generator:
    """The random numbers of one segment (by its key) in one pass over the corpus."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, key)))


def draw_indices(length: int, config: ViewsConfig, rng: np.random.Generator) -> list[list[int]]:
    """Frame indices of every view of a clip of `length` frames, globals first."""
    exact = config.quirks == "released"
    return global_indices(length, config.global_frames, exact) + local_indices(
        length, config.local_frames, rng
    )


def cut_views(
    frames: npt.NDArray[np.uint8],
    positions: Sequence[Sequence[int]],
    config: ViewsConfig,
    rng: np.random.Generator,
) -> list[View]:
    """Cut every view from the decoded `frames` [F, H, W, 3]; `positions` says which of them each
    view takes.
    """
    size = (frames.shape[1], frames.shape[2])
    low, middle, high = config.crop_areas
    views = []
    for number, taken in enumerate(positions):
        is_global = number < len(config.global_frames)
        crop = draw_crop(size, (middle, high) if is_global else (low, middle), rng, config.quirks)
        window = apply_crop(
            torch.from_numpy(_take(frames, taken, crop)),
            replace(crop, top=0, left=0),
            config.global_pixels if is_global else config.local_pixels,
            antialias=config.quirks == "none",
        )
        mean = np.array(cv2.mean(window.numpy().reshape(-1, window.shape[2], 3))[:3]) / 255
        *jitter, grey = config.color_jitter
        color = draw_color(mean, (jitter[0], jitter[1], jitter[2]), rng, config.quirks, grey)
        views.append(View(window, torch.from_numpy(color)))
    return views


def _take(
    frames: npt.NDArray[np.uint8], positions: Sequence[int], crop: Crop
) -> npt.NDArray[np.uint8]:
    """The crop of the named frames; without a copy where they are evenly spaced.

    By NumPy, which copies rows where PyTorch's indexing copies one byte after the other.
    """
    window = frames[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    steps = {b - a for a, b in pairwise(positions)}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return window[positions[0] : positions[-1] + 1 : step]
    return window[list(positions)]
