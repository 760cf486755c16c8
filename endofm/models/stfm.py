"""STFM: a clip's middle frame and its course in time, seen by two streams that share a stem.

After "STFM and the EV9V benchmark" (2026, arXiv 2606.17437). The stem and the stages after it are
any CNN of timm. What the text leaves open is ours: see docs/systems_stfm.md.

Shapes: B clips, T frames, C channels, H W pixels, h w places of the stem's map, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.models.frame_cnn import frame_cnn, load_frame_cnn
from endofm.models.input import InputSpec, check_clip


@dataclass(frozen=True)
class STFMConfig:
    """Everything that shapes an STFM; raises `ConfigError` for what can't be built."""

    stem: str = "resnet18"
    """A CNN of timm, by its name without a tag."""
    width: int = 128
    """Length of each stream's feature, and of the clip's."""
    temporal_widths: tuple[int, ...] = (32, 48, 64)
    """Channels of the temporal stream's first convolution and of its residual blocks."""
    lstm_width: int = 512
    """Length of the state of each of the LSTM's two layers."""
    image_pixels: int = 224
    """Side of the frames that `input_spec` tells; other sizes work."""
    num_frames: int = 5
    """Frames of a clip that `input_spec` tells; other numbers work."""

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("width", "lstm_width", "image_pixels")}
        for name, value in {**numbers, "num_frames": self.num_frames}.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if not self.temporal_widths or min(self.temporal_widths) < 1:
            raise ConfigError(
                f"temporal_widths is {list(self.temporal_widths)}; give at least one of 1 or more."
            )

    @property
    def in_channels(self) -> int:
        """Channels of a frame."""
        return 3


class SpatialStream(nn.Module):
    """The CNN's remaining stages on the middle frame, their mean, and a linear layer."""

    def __init__(self, stages: nn.Sequential, channels: int, width: int) -> None:
        super().__init__()
        self.stages = stages
        self.dropout = nn.Dropout(0.3)
        self.project = nn.Linear(channels, width)

    def forward(self, maps: Tensor) -> Tensor:  # [B, C, h, w] -> [B, D]
        """The feature of one frame a clip."""
        out: Tensor = self.project(self.dropout(self.stages(maps).mean(dim=(2, 3))))
        return out


class HalvingBlock(nn.Module):
    """Two convolutions of 3 x 3, the first of stride 2, beside a projecting shortcut."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters)
        )

    def forward(self, maps: Tensor) -> Tensor:  # [N, C, h, w] -> [N, C', h / 2, w / 2]
        """None below 0."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        # Halved here rather than by the convolution: the gradient of one of 1 x 1 and stride 2 with
        # channels last and fewer than 8 of them (16 with AVX-512) writes beyond its memory on CPUs
        # (oneDNN issue 6035, torch 2.14).
        return F.relu(inner + self.shortcut(maps[..., ::2, ::2]))


class TemporalStream(nn.Module):
    """Small maps of every frame, their means as a sequence through an LSTM, its last step."""

    def __init__(self, config: STFMConfig, channels: int) -> None:
        super().__init__()
        first, *filters = config.temporal_widths
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        )
        before = (first, *filters)
        self.halve = nn.Sequential(*map(HalvingBlock, before, filters))
        self.dropout = nn.Dropout(0.2)
        self.lstm = nn.LSTM(
            before[-1], config.lstm_width, num_layers=2, batch_first=True, dropout=0.3
        )
        self.last_dropout = nn.Dropout(0.3)
        self.project = nn.Linear(config.lstm_width, config.width)

    def forward(self, maps: Tensor) -> Tensor:  # [B, T, C, h, w] -> [B, D]
        """The feature of the clip's course."""
        of_frames = self.halve(self.reduce(maps.flatten(0, 1))).mean(dim=(2, 3))
        states, _ = self.lstm(self.dropout(of_frames).unflatten(0, maps.shape[:2]))
        out: Tensor = self.project(self.last_dropout(states[:, -1]))
        return out


class Fusion(nn.Sequential):
    """Both streams' features side by side to one: [B, 2 D] -> [B, D], none below 0."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Dropout(0.5), nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(0.3))


class STFM(nn.Module):
    """The backbone: a clip in, its feature (`forward`) or that and both streams' (`tokens`) out.

    The last linear layer is the task's head. Any number of frames, and any height and width from
    the CNN's stride on. Tokens are streams, not places: it is for classification only.
    """

    def __init__(self, config: STFMConfig) -> None:
        super().__init__()
        self.config = config
        cnn = frame_cnn(config.stem)
        self.patch_pixels = cnn.stride
        """Frames are at least as large; what a place of the CNN's last map stands for."""
        self.input_spec = InputSpec(cnn.mean, cnn.std, config.num_frames, config.image_pixels)
        self.stem = cnn.stem
        self.blocks = nn.ModuleList(
            [
                SpatialStream(cnn.stages, cnn.channels, config.width),
                TemporalStream(config, cnn.stem_channels),
                Fusion(config.width),
            ]
        )

    @property
    def width(self) -> int:
        """Length of a token, and of the clip's feature."""
        return self.config.width

    def forward(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, D]
        """The clip's feature."""
        return self.tokens(clip)[:, 0]

    def tokens(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, 3, D]
        """The clip's feature, then those of the spatial and of the temporal stream.

        Raises `ConfigError` for what is no clip, and for frames too small.
        """
        self._check(clip)
        spatial, temporal, fusion = self.blocks
        frames = clip.transpose(1, 2)
        maps = self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        features = spatial(maps[:, maps.shape[1] // 2]), temporal(maps)
        fused = fusion(torch.cat(features, dim=1))
        return torch.stack([fused, *features], dim=1)

    def _check(self, clip: Tensor) -> None:
        check_clip(clip)
        if min(clip.shape[-2:]) < self.patch_pixels:
            raise ConfigError(
                f"The clip's frames of {clip.shape[-2]} x {clip.shape[-1]} pixels are too small: "
                f"the stride of {self.config.stem} is {self.patch_pixels}; resize them to that or "
                "more each way."
            )


def load_stem(model: STFM, source: str | Path) -> None:
    """Start the CNN of an STFM from timm's weights, and take over their input statistics.

    The temporal stream and the fusion stay as they are. Raises `WeightsError`; see
    `load_frame_cnn`.
    """
    spatial = model.blocks[0]
    assert isinstance(spatial, SpatialStream)
    image = load_frame_cnn(model.stem, spatial.stages, source)
    config = model.config
    model.input_spec = InputSpec(image.mean, image.std, config.num_frames, config.image_pixels)
