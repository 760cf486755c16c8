"""Segmentation of every frame of a clip: a network, its loss, and masks at the frames' own size.

Shapes: B clips, T frames, K classes, H W pixels.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError
from endofm.heads.segmentation import PyramidDecoder
from endofm.losses.segmentation import IGNORED, segmentation_loss
from endofm.models.outputs import patch_tokens
from endofm.models.released_segmentation import ReleasedSegmentation
from endofm.models.timesformer import TimeSformer


@dataclass(frozen=True)
class SegmentationConfig:
    """What a segmentation network has to learn."""

    num_classes: int = 2
    """Classes (K), the background (0) among them."""
    dice_weight: float = 0.5
    """Share of the Dice loss; the rest is cross-entropy."""
    class_weights: tuple[float, ...] = ()
    """Weights of the classes in the cross-entropy; empty: all alike."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.num_classes < 2:
            raise ConfigError(f"num_classes is {self.num_classes}; give at least 2.")
        if not 0 <= self.dice_weight <= 1:
            raise ConfigError(f"dice_weight is {self.dice_weight}; give 0 to 1.")
        weights = self.class_weights
        if weights and (len(weights) != self.num_classes or min(weights) < 0 or not any(weights)):
            raise ConfigError(
                f"class_weights are {list(weights)}; give one of 0 or more for each of the "
                f"{self.num_classes} classes, or none."
            )


@dataclass
class SegmentationOutput:
    """A forward pass: scalars to minimise and to watch, and the scores."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor
    logits: Tensor  # [B, T, K, H, W]


class TokenSegmentation(nn.Module):
    """A backbone with the light head on its patch tokens."""

    def __init__(self, backbone: TimeSformer, head: PyramidDecoder) -> None:
        """Join the two."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_spec = backbone.input_spec

    @property
    def num_classes(self) -> int:
        """Classes (K), the background among them."""
        return self.head.num_classes

    @property
    def patch_pixels(self) -> int:
        """The number that a frame's sides are multiples of."""
        return self.backbone.config.patch_pixels

    def forward(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, T, K, H, W]
        """Scores before the softmax."""
        logits: Tensor = self.head(patch_tokens(self.backbone, clip), clip.shape[-2:])
        return logits


Network: TypeAlias = TokenSegmentation | ReleasedSegmentation


class SegmentationTask(nn.Module):
    """Network and loss: one forward a micro-batch; `predict` gives masks."""

    def __init__(self, network: Network, config: SegmentationConfig) -> None:
        """Raises `ConfigError` for a network of another number of classes."""
        super().__init__()
        if network.num_classes != config.num_classes:
            raise ConfigError(
                f"The network tells {network.num_classes} classes, not {config.num_classes}; set "
                f"num_classes to {network.num_classes}, or start its last layer anew (reset_head)."
            )
        self.network = network
        self.config = config
        weights = torch.tensor(config.class_weights) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, frames: Tensor, masks: Tensor) -> SegmentationOutput:
        """Loss of normalised `frames` [B, 3, T, H, W] against `masks` int64 [B, T, H, W].

        Masks hold 0 to K - 1, or 255 where a pixel is not to count. Raises `ConfigError` for other
        labels, and for masks that don't lie on the frames.
        """
        self._check(frames, masks)
        logits = self.logits(frames, (masks.shape[-2], masks.shape[-1]))
        loss = segmentation_loss(logits, masks, self.config.dice_weight, self.class_weights)
        return SegmentationOutput(loss.total, loss.cross_entropy, loss.dice, logits)

    def logits(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores before the softmax [B, T, K, H, W] of normalised frames, bilinear at `size`.

        Frames whose sides the patches don't tile are resized to the nearest that they do.
        """
        patch = self.network.patch_pixels
        sides = [max(round(side / patch), 2) * patch for side in frames.shape[-2:]]
        logits: Tensor = self.network(resize(frames, (sides[0], sides[1])))
        return resize(logits, size)

    @torch.no_grad()
    def predict(self, frames: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Classes uint8 [B, T, H, W] of normalised frames, in evaluation mode.

        `size` (H, W) is that of the original frames; by default the given frames' own.
        """
        was_training = self.training
        self.eval()
        height, width = size or frames.shape[-2:]
        classes = self.logits(frames, (height, width)).argmax(dim=2).to(torch.uint8)
        self.train(was_training)
        return classes

    def _check(self, frames: Tensor, masks: Tensor) -> None:
        wanted = [frames.shape[0], *frames.shape[2:]]
        if list(masks.shape) != wanted or masks.dtype != torch.int64:
            raise ConfigError(
                f"Frames {list(frames.shape)} need masks int64 {wanted}, but these are "
                f"{str(masks.dtype).removeprefix('torch.')} {list(masks.shape)}."
            )
        num_classes = self.config.num_classes
        is_wrong = (masks != IGNORED) & ((masks < 0) | (masks >= num_classes))
        if is_wrong.any():
            raise ConfigError(
                f"Masks hold the label {int(masks[is_wrong][0])}, but there are {num_classes} "
                f"classes, 0 to {num_classes - 1}; besides, only {IGNORED} is known, for pixels "
                "that don't count."
            )


def build_segmentation(
    model: TimeSformer | ReleasedSegmentation,
    config: SegmentationConfig,
    reset_head: bool = False,
) -> SegmentationTask:
    """The task around what `endofm.load` gives: a backbone under the light head, or the released
    model.

    `reset_head` starts the released model's last layer anew, for the configuration's classes;
    without it a model of other classes raises `ConfigError`.
    """
    if isinstance(model, TimeSformer):
        head = PyramidDecoder(model.width, config.num_classes)
        return SegmentationTask(TokenSegmentation(model, head), config)
    if reset_head:
        model.reset_head(config.num_classes)
    return SegmentationTask(model, config)


def resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [B, 3, T, H, W] or scores [B, T, K, H, W] at another size, bilinear."""
    if clip.shape[-2:] == size:
        return clip
    planes = F.interpolate(clip.flatten(0, 1), size=size, mode="bilinear")
    return planes.reshape(*clip.shape[:3], *size)
