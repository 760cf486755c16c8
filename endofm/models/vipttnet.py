"""ViPTT-Net: a CNN of single frames, an LSTM over what it gives, a last layer.

ViPTT-Net: Video pretraining of spatio-temporal model for tuberculosis type classification from
chest CT scans (arXiv 2105.12810). A clip is of one channel there: the mean of red, green and blue
here, which for a CT volume is what each of them is. What the paper leaves open is ours: see
docs/volumes.md.

Shapes: B clips, T frames, C channels of the CNN's last map, H W pixels, R recurrent width, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.models.frame_cnn import FrameCNN, frame_cnn, load_frame_cnn
from endofm.models.input import InputSpec, check_clip


@dataclass(frozen=True)
class ViPTTNetConfig:
    """Everything that shapes a ViPTT-Net; raises `ConfigError` for what can't be built."""

    cnn: str = "vgg16"
    """timm's name of the frame CNN."""
    recurrent_width: int = 256
    """Units of the LSTM."""
    width: int = 1024
    """Length of the clip's feature."""
    image_pixels: int = 224
    """Side of the frames that `input_spec` tells; other sizes work."""
    num_frames: int = 70
    """Frames of a clip that `input_spec` tells; other numbers work."""

    def __post_init__(self) -> None:
        for name in ("recurrent_width", "width", "image_pixels", "num_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def in_channels(self) -> int:
        """Channels of a frame as it is given; their mean is what the network sees."""
        return 3


class FrameEncoder(nn.Module):
    """A CNN, and the mean of its last map over places."""

    def __init__(self, cnn: FrameCNN) -> None:
        super().__init__()
        self.stem, self.stages = cnn.stem, cnn.stages

    def forward(self, frames: Tensor) -> Tensor:  # [B T, 3, H, W] -> [B T, C]
        """Features of frames by themselves."""
        maps: Tensor = self.stages(self.stem(frames))
        return maps.mean(dim=(2, 3))


class Recurrence(nn.Module):
    """An LSTM from the first frame to the last, and a layer with ReLU on its states."""

    def __init__(self, channels: int, recurrent_width: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, recurrent_width, batch_first=True)
        self.project = nn.Linear(recurrent_width, width)

    def forward(self, features: Tensor) -> Tensor:  # [B, T, C] -> [B, T, D]
        """What is known after each frame."""
        states, _ = self.lstm(features)
        return torch.relu(self.project(states))


class ViPTTNet(nn.Module):
    """The backbone: a clip in, its feature (`forward`) or that of every frame too (`tokens`) out.

    `blocks` are the frame CNN and the recurrence, so that training the last block only is what the
    paper calls a frozen CNN. Before them a learned 1 x 1 convolution makes the CNN's three channels
    of one; it starts as the normalisation of timm's weights.
    """

    def __init__(self, config: ViPTTNetConfig) -> None:
        super().__init__()
        self.config = config
        self.input_spec = InputSpec(
            (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), config.num_frames, config.image_pixels
        )
        self.from_grey = nn.Conv2d(1, 3, 1)
        cnn = frame_cnn(config.cnn)
        recurrence = Recurrence(cnn.channels, config.recurrent_width, config.width)
        self.blocks = nn.ModuleList([FrameEncoder(cnn), recurrence])
        self._stride = cnn.stride
        self.normalize_as(cnn)

    @torch.no_grad()
    def normalize_as(self, cnn: FrameCNN) -> None:
        """Start the convolution as the normalisation that a CNN's weights want."""
        mean, std = torch.tensor(cnn.mean), torch.tensor(cnn.std)
        assert self.from_grey.bias is not None
        self.from_grey.weight.copy_((1 / std).view(3, 1, 1, 1))
        self.from_grey.bias.copy_(-mean / std)

    @property
    def width(self) -> int:
        """Length of a token, and of the clip's feature."""
        return self.config.width

    @property
    def patch_pixels(self) -> int:
        """Pixels from one place of the CNN's last map to the next; frames are multiples of it."""
        return self._stride

    def forward(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, D]
        """The clip's feature: what is known after the last frame."""
        return self._states(clip)[:, -1]

    def tokens(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, 1 + T, D]
        """What `forward` gives, then what is known after each frame."""
        states = self._states(clip)
        return torch.cat([states[:, -1:], states], dim=1)

    def _states(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, T, D]
        self._check(clip)
        grey = rearrange(clip.mean(dim=1, keepdim=True), "b c t h w -> (b t) c h w")
        features = self.blocks[0](self.from_grey(grey))
        of_frames = rearrange(features, "(b t) c -> b t c", t=clip.shape[2])
        states: Tensor = self.blocks[1](of_frames)
        return states

    def _check(self, clip: Tensor) -> None:
        check_clip(clip)
        if min(clip.shape[-2:]) < self._stride:
            raise ConfigError(
                f"The clip's frames of {clip.shape[-2]} x {clip.shape[-1]} pixels are too small "
                f"for {self.config.cnn}; resize them to {self._stride} or more each way."
            )


def load_cnn(model: ViPTTNet, source: str | Path) -> None:
    """Start the frame CNN of a ViPTT-Net from timm's weights, and its colours as they normalise.

    The recurrence stays as it is. Raises `WeightsError`; see `load_frame_cnn`.
    """
    frames = model.blocks[0]
    assert isinstance(frames, FrameEncoder)
    image = load_frame_cnn(frames.stem, frames.stages, source)
    model.normalize_as(image)
