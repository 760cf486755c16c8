"""FCOS on a backbone's token grid: a feature pyramid, and boxes at every one of its points.

Tian et al., FCOS: Fully Convolutional One-Stage Object Detection (ICCV 2019), with centre-ness on
the box tower. The pyramid grows out of one scale as in ViTDet (Li et al., ECCV 2022).

Shapes: F frames, D width, C channels, K classes, L points of all levels, h w cells of a level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError

NUM_LEVELS = 5
MAX_LOG_DISTANCE = 7.0
"""exp(7) is 1,100 strides: beyond any frame, and no overflow."""


class FeaturePyramid(nn.Module):
    """Levels P3 to P7 from one token grid: half a patch, a patch, and 2, 4 and 8 patches a cell."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.finer = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                norm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                norm(channels),
            )
            for _ in range(3)
        )
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2)
        )

    def forward(self, grid: Tensor) -> list[Tensor]:  # [F, h, w, D] -> 5 of [F, C, h', w']
        """Five levels, the finest first; a level of odd size rounds up in the next."""
        middle = rearrange(grid, "f h w d -> f d h w")
        coarse = F.max_pool2d(middle, kernel_size=2, stride=2, ceil_mode=True)
        scales = (self.finer(middle), middle, coarse)
        found = [level(scale) for level, scale in zip(self.levels, scales, strict=True)]
        # On maps of one cell a CPU's bfloat16 (oneDNN, stride 2) leaves gradients of taps that lie
        # outside unwritten: whatever was in memory, NaN at times.
        with torch.autocast(grid.device.type, enabled=False):
            found.append(self.coarser[0](found[-1].float()))
            found.append(self.coarser[1](F.relu(found[-1])))
        return found


@dataclass
class LevelMaps:
    """What the head says of one level; the towers are what the video branch goes on from."""

    class_tower: Tensor  # [F, C, h, w]
    box_tower: Tensor  # [F, C, h, w]
    logits: Tensor  # [F, K, h, w]
    distances: Tensor  # [F, 4, h, w]: to the left, top, right and bottom edge, in pixels
    centerness: Tensor  # [F, 1, h, w], before the sigmoid
    stride: float  # pixels a cell


@dataclass
class Dense:
    """A box at every point of every level."""

    logits: Tensor  # [F, L, K], before the sigmoid
    distances: Tensor  # [F, L, 4], in pixels
    centerness: Tensor  # [F, L], before the sigmoid


class FcosHead(nn.Module):
    """Two towers that all levels share, and a scale for the boxes of each level."""

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4) -> None:
        super().__init__()
        if num_classes < 1 or num_convs < 1:
            raise ConfigError(
                f"A detection head can't have {num_classes} classes and towers of {num_convs} "
                "convolutions; give at least 1 of each."
            )
        self.class_tower = tower(channels, num_convs)
        self.box_tower = tower(channels, num_convs)
        self.classify = classifier(channels, num_classes)
        self.regress = nn.Conv2d(channels, 4, 3, padding=1)
        self.center = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(NUM_LEVELS))
        for layer in (self.regress, self.center):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @property
    def num_classes(self) -> int:
        """Classes (K); there is none for the background."""
        return self.classify.out_channels

    def forward(self, levels: Sequence[Tensor], strides: Sequence[float]) -> list[LevelMaps]:
        """Maps of every level; distances are exp(scale x) strides, so boxes start at two cells."""
        found = []
        for level, scale, stride in zip(levels, self.scales, strides, strict=True):
            of_class, of_box = self.class_tower(level), self.box_tower(level)
            log = (scale * self.regress(of_box)).float().clamp(max=MAX_LOG_DISTANCE)
            found.append(
                LevelMaps(
                    of_class,
                    of_box,
                    self.classify(of_class),
                    log.exp() * stride,
                    self.center(of_box),
                    stride,
                )
            )
        return found


def flatten(maps: Sequence[Tensor]) -> Tensor:  # of [F, C, h, w] -> [F, L, C]
    """Maps of all levels as one row of points: level by level, row by row."""
    return torch.cat([rearrange(one, "f c h w -> f (h w) c") for one in maps], dim=1)


def dense(levels: Sequence[LevelMaps]) -> Dense:
    """The boxes of all levels."""
    return Dense(
        flatten([level.logits for level in levels]),
        flatten([level.distances for level in levels]),
        flatten([level.centerness for level in levels]).squeeze(-1),
    )


def tower(channels: int, num_convs: int) -> nn.Sequential:
    """Convolutions of one width, each with a group norm and a ReLU."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, std=0.01)
        layers += [conv, norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Starts at a probability of 0.01 everywhere, as focal loss needs it (Lin et al., 2017)."""
    layer = nn.Conv2d(channels, num_classes, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, -math.log((1 - 0.01) / 0.01))
    return layer


def norm(channels: int) -> nn.GroupNorm:
    """32 groups, fewer where a group would be one cell of the coarsest level (its norm is zero)."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels)
