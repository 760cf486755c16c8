"""Labelled clips: what is shown of them, samples with their truth, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Broken
from endofm.errors import ConfigError

Kind = Literal["classification", "multi_label", "segmentation", "detection", "video_detection"]
CLASSIFICATION = ("classification", "multi_label")
DETECTION = ("detection", "video_detection")
PLAIN = np.eye(3, 4, dtype=np.float32)
"""The colour map that changes nothing."""


@dataclass(frozen=True)
class LabelledConfig:
    """Which clips, what they are labelled with, and what is shown of them."""

    manifests: tuple[Path, ...] = ()
    """Manifests with the splits train, test and, if you have one, val."""
    root: Path | None = None
    """Folder that the manifests' paths start from; by default each manifest's own."""
    label: str = ""
    """For classification: the column without its `label_`."""
    classes: tuple[str, ...] = ()
    """Names of the classes in order; default: the column's values, sorted. For segmentation with
    the background first.
    """
    val_share: float = 0.2
    """Share of the training groups that become validation where no row has the split `val`; with
    balanced draws of the drawn groups, and as many for the test.
    """
    label_share: tuple[float, ...] = (1.0,)
    """Share of the training groups to learn from; several: one result for each (a curve)."""
    frames: int | None = None
    """Frames of a clip; by default what the weights were made for."""
    pixels: int | None = None
    """Height and width of what the network sees; by default what the weights were made for."""
    stride: int = 0
    """From one frame to the next; 0: spread over the whole row (1 where each frame is judged)."""
    segments: Literal["none", "random", "most_certain", "least_certain"] = "none"
    """Training clips around a random frame of a part of 20 frames: a random one, or the one that an
    evidential head was most or least certain of; none: from anywhere in the row.
    """
    every_frames: int = 0
    """Judge a frame so often, by the frames around it (phases of long videos); 0: rows whole."""
    test_views: tuple[int, int] = (1, 1)
    """Clips in time and crops in space of a row at test; their probabilities are averaged."""
    crop_area: tuple[float, float] = (0.5, 1.0)
    """Share of the frame's area that a training crop has; 1 1: no crop."""
    rotate_degrees: float = 0.0
    """Training clips are turned by up to so much."""
    flip: bool = True
    """Mirror half of the training clips."""
    color_jitter: tuple[float, float, float] = (0.2, 0.2, 0.1)
    """Strength of brightness, contrast and saturation jitter in training."""
    workers: int = 2
    """Processes that decode, for each training process; 0 decodes in the training process."""
    max_broken_share: float = 0.05
    """The run stops when more than this share of the clips can't be decoded."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if not 0 < self.val_share < 1 or not 0 <= self.max_broken_share <= 1:
            raise ConfigError(
                f"data.val_share {self.val_share} lies between 0 and 1, data.max_broken_share "
                f"{self.max_broken_share} from 0 to 1."
            )
        if not self.label_share or any(not 0 < share <= 1 for share in self.label_share):
            raise ConfigError(
                f"data.label_share is {list(self.label_share)}; give shares above 0, up to 1."
            )
        for name in ("frames", "pixels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"data.{name} is {value}; give 1 or more.")
        for name in ("stride", "every_frames", "workers", "rotate_degrees"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give 0 or more.")
        if min(self.test_views) < 1:
            raise ConfigError(f"data.test_views is {list(self.test_views)}; give 1 or more each.")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(
                f"data.crop_area is {list(self.crop_area)}; give two rising shares above 0, up to "
                "1."
            )
        if any(not 0 <= strength < 1 for strength in self.color_jitter):
            raise ConfigError(
                f"data.color_jitter is {list(self.color_jitter)}; each strength lies in [0, 1)."
            )
        if self.every_frames and self.test_views != (1, 1):
            raise ConfigError(
                f"data.test_views is {list(self.test_views)}, but with data.every_frames a frame "
                "is judged by the one clip around it; leave one of them out."
            )
        if self.segments != "none" and (self.every_frames or not self.stride):
            raise ConfigError(
                f"data.segments {self.segments} chooses parts of whole rows, whose frames are "
                "data.stride apart; give a stride of 1 or more, and no data.every_frames."
            )
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"data.classes names one twice: {', '.join(self.classes)}.")

    @property
    def is_plain(self) -> bool:
        """Whether training shows a clip as the test does: nothing is drawn."""
        return (
            self.crop_area == (1.0, 1.0)
            and not self.flip
            and not self.rotate_degrees
            and not any(self.color_jitter)
        )


@dataclass(frozen=True)
class ClipSpec:
    """How clips of a task are shown, and what belongs to them; travels to the workers."""

    kind: Kind
    classes: tuple[str, ...]
    data: LabelledConfig
    frames: int
    pixels: int
    legacy: bool = False
    """At test one corner crop of the first frames, as the released PolypDiag evaluation has it."""

    @property
    def stride(self) -> int:
        """From frame to frame, where frames are taken in a row."""
        return max(self.data.stride, 1)

    @property
    def is_dense(self) -> bool:
        """Whether frames are judged one by one."""
        return self.kind not in CLASSIFICATION

    @property
    def is_video_detection(self) -> bool:
        """Whether one frame is judged, among its references."""
        return self.kind == "video_detection"


class LabelledSample(NamedTuple):
    """One clip as V views, with its truth; V is 1 in training."""

    frames: Tensor  # uint8 [V, T, P, P, 3], or features float32 [V, D]
    colors: Tensor  # float32 [V, 3, 4]
    truth: Any  # class number(s); masks uint8 [T, h, w]; a list of T Boxes
    segment: Segment
    indices: tuple[int, ...]  # shown frames, from the clip's start
    size: tuple[int, int]  # height and width of the file's frames
    key: int  # which of the frames is judged, in video detection
    broken: tuple[Broken, ...] = ()
    number: int = 0  # of the piece, at test


@dataclass
class LabelledBatch:
    """B samples, their views one after the other: `frames` uint8 [B V, T, P, P, 3]."""

    frames: Tensor
    colors: Tensor
    truths: list[Any]
    segments: list[Segment]
    indices: list[tuple[int, ...]]
    sizes: list[tuple[int, int]]
    keys: list[int]
    views: list[int]
    names: list[str]
    numbers: list[int]
    broken: list[Broken] = field(default_factory=list)

    def to(self, device: torch.device) -> "LabelledBatch":
        """The same batch with its pixels on a device."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            colors=self.colors.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "LabelledBatch":
        """The same batch in page-locked memory, from which a GPU copies while it computes."""
        return replace(self, frames=self.frames.pin_memory(), colors=self.colors.pin_memory())


def join(samples: Sequence[LabelledSample | Broken]) -> LabelledBatch | list[Broken]:
    """Samples to a batch; what is broken is listed. A batch of nothing else is only the list."""
    whole_ones = [one for one in samples if isinstance(one, LabelledSample)]
    broken = [one for one in samples if isinstance(one, Broken)]
    if not whole_ones:
        return broken
    return LabelledBatch(
        frames=torch.cat([one.frames for one in whole_ones]),
        colors=torch.cat([one.colors for one in whole_ones]),
        truths=[one.truth for one in whole_ones],
        segments=[one.segment for one in whole_ones],
        indices=[one.indices for one in whole_ones],
        sizes=[one.size for one in whole_ones],
        keys=[one.key for one in whole_ones],
        views=[len(one.frames) for one in whole_ones],
        names=[one.segment.name for one in whole_ones],
        numbers=[one.number for one in whole_ones],
        broken=broken + [item for one in whole_ones for item in one.broken],
    )
