"""RPA 3D CNN: residual blocks with parallel attention, over a whole clip.

Dhar et al.: A Novel 3D Convolutional Neural Network-Based Deep Learning Model for Spatiotemporal
Feature Mapping for Video Analysis (J. Imaging 2025, 11, 243). What the paper leaves open is ours:
see docs/systems.md.

Shapes: B clips, T frames, C channels, H W pixels, h w places of the last map, N = h w T tokens, D
width.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.models.input import InputSpec, check_clip

Convolution = Literal["2plus1d", "3d"]
Middle = Literal["filters", "matched"]


@dataclass(frozen=True)
class RPA3DConfig:
    """Everything that shapes an RPA 3D CNN; raises `ConfigError` for what can't be built."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Filters of each stage; those of the first are the stem's too, those of the last the width."""
    convolution: Convolution = "2plus1d"
    """Space, then time; or both at once (the paper's ablation)."""
    middle: Middle = "filters"
    """Channels between space and time: as many as filters, or so many that the two have as many
    weights as the convolution at once (Tran et al., CVPR 2018).
    """
    has_attention: bool = True
    """Whether P-scSE3D ends a block; without it the block is a plain residual one."""
    reduction: int = 8
    """Channel attention narrows the channels by this factor."""
    image_pixels: int = 224
    """Side of the frames that `input_spec` tells; other sizes work."""
    num_frames: int = 10
    """Frames of a clip that `input_spec` tells; other numbers work."""
    in_channels: int = 3
    """Channels of a frame."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(
                f"widths is {list(self.widths)}; give at least one stage of 1 or more."
            )
        for name in ("reduction", "image_pixels", "num_frames", "in_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.has_attention and min(self.widths) < self.reduction:
            raise ConfigError(
                f"reduction {self.reduction} leaves nothing of {min(self.widths)} channels; give "
                "at most that."
            )
        for name, kind in (("convolution", Convolution), ("middle", Middle)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}.")

    @property
    def stride(self) -> int:
        """Pixels from one place of the last map to the next: the stem and each stage but the last
        halve.
        """
        return 1 << len(self.widths)


def convolve(
    config: RPA3DConfig, channels: int, filters: int, kernel: tuple[int, int]
) -> nn.Module:
    """A convolution over `kernel` frames and pixels that keeps the size; no bias: norms follow.

    `2plus1d`: (1, k, k), then (t, 1, 1), with nothing between the two.
    """
    frames, side = kernel
    whole = (frames, side, side)
    if config.convolution == "3d":
        return nn.Conv3d(channels, filters, whole, padding="same", bias=False)
    middle = filters
    if config.middle == "matched":
        area = side**2
        middle = frames * area * channels * filters // (area * channels + frames * filters)
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, side, side), padding="same", bias=False),
        nn.Conv3d(middle, filters, (frames, 1, 1), padding="same", bias=False),
    )


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every place and frame alone."""

    def forward(self, maps: Tensor) -> Tensor:  # [B, C, T, H, W]
        """The same, normalised over C."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class ChannelAttention(nn.Sequential):
    """cSE: a weight for every channel, from its mean over the clip: [B, C, ...] -> [B, C, 1, 1, 1].

    Hu et al., Squeeze-and-Excitation Networks (CVPR 2018).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        narrow = channels // reduction
        super().__init__(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(channels, narrow, 1),
            nn.ReLU(),
            nn.Conv3d(narrow, channels, 1),
            nn.Sigmoid(),
        )


class SpatialAttention(nn.Sequential):
    """sSE: a weight for every place and frame: [B, C, T, H, W] -> [B, 1, T, H, W].

    Roy, Navab, Wachinger: Concurrent Spatial and Channel Squeeze & Excitation (MICCAI 2018).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv3d(channels, 1, 1), nn.Sigmoid())


class ParallelAttention(nn.Module):
    """P-scSE3D: both attentions joined by the larger and by the sum, side by side.

    The two branches have weights of their own; their sum goes through a convolution over 3 frames
    and 3 x 3 pixels, batch norm and ReLU.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channel_of_larger = ChannelAttention(channels, reduction)
        self.space_of_larger = SpatialAttention(channels)
        self.channel_of_sum = ChannelAttention(channels, reduction)
        self.space_of_sum = SpatialAttention(channels)
        self.conv = nn.Conv3d(channels, channels, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, maps: Tensor) -> Tensor:  # [B, C, T, H, W]
        """Weighed maps of the same shape, none below 0."""
        out: Tensor = self.norm(self.conv(self.join(maps)))
        return F.relu(out)

    def join(self, maps: Tensor) -> Tensor:
        """max(x cSE, x sSE) + (x cSE' + x sSE'), before the convolution."""
        larger = torch.maximum(
            maps * self.channel_of_larger(maps), maps * self.space_of_larger(maps)
        )
        summed: Tensor = maps * self.channel_of_sum(maps) + maps * self.space_of_sum(maps)
        return larger + summed


class RPABlock(nn.Module):
    """Two convolutions with LayerNorm beside a shortcut, then P-scSE3D.

    The shortcut is a projection with LayerNorm where the channels change, else nothing.
    """

    def __init__(self, config: RPA3DConfig, channels: int, filters: int) -> None:
        super().__init__()
        self.conv1 = convolve(config, channels, filters, (3, 3))
        self.norm1 = ChannelNorm(filters)
        self.conv2 = convolve(config, filters, filters, (3, 3))
        self.norm2 = ChannelNorm(filters)
        self.shortcut: nn.Module = nn.Identity()
        if channels != filters:
            project = nn.Conv3d(channels, filters, 1, bias=False)
            self.shortcut = nn.Sequential(project, ChannelNorm(filters))
        self.attention: nn.Module = nn.Identity()
        if config.has_attention:
            self.attention = ParallelAttention(filters, config.reduction)

    def forward(self, maps: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, C', T, H, W]
        """Frames and places stay."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        out: Tensor = self.attention(inner + self.shortcut(maps))
        return out


class RPA3D(nn.Module):
    """The backbone: a clip in, its feature (`forward`) or all its tokens (`tokens`) out.

    Any number of frames, and any height and width from twice the stride on.
    """

    def __init__(self, config: RPA3DConfig) -> None:
        super().__init__()
        self.config = config
        self.input_spec = InputSpec(num_frames=config.num_frames, pixels=config.image_pixels)
        first = config.widths[0]
        self.stem = nn.Sequential(
            convolve(config, config.in_channels, first, (3, 7)), nn.BatchNorm3d(first), nn.ReLU()
        )
        before = (first, *config.widths[:-1])
        self.blocks = nn.ModuleList(
            RPABlock(config, channels, filters)
            for channels, filters in zip(before, config.widths, strict=True)
        )

    @property
    def width(self) -> int:
        """Length of a token, and of the clip's feature."""
        return self.config.widths[-1]

    @property
    def patch_pixels(self) -> int:
        """Side of the square that a token stands for: the stride."""
        return self.config.stride

    def forward(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, D]
        """The clip's feature: the mean of its last map over frames and places."""
        return self.maps(clip).mean(dim=(2, 3, 4))

    def tokens(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, 1 + N, D]
        """What `forward` gives, then the places of the last map as (h w t), as a TimeSformer's."""
        maps = self.maps(clip)
        places = rearrange(maps, "b d t h w -> b (h w t) d")
        return torch.cat([maps.mean(dim=(2, 3, 4))[:, None], places], dim=1)

    def maps(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, D, T, H // 16, W // 16]
        """The last map; raises `ConfigError` for what is no clip, and for frames too small."""
        self._check(clip)
        maps: Tensor = self.stem(clip)
        for block in self.blocks:
            maps = block(halve(maps))
        return maps

    def _check(self, clip: Tensor) -> None:
        check_clip(clip, self.config.in_channels)
        least = 2 * self.config.stride
        if min(clip.shape[-2:]) < least:
            raise ConfigError(
                f"The clip's frames of {clip.shape[-2]} x {clip.shape[-1]} pixels are too small to "
                f"be halved {len(self.blocks)} times; resize them to {least} or more each way."
            )


def halve(maps: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, C, T, H // 2, W // 2]
    """Half the height and width by bilinear resizing; time stays (its part of "trilinear" is 1)."""
    frames, height, width = maps.shape[-3:]
    return F.interpolate(maps, size=(frames, height // 2, width // 2), mode="trilinear")
