"""What a model wants to be shown."""

from dataclasses import dataclass

import torch
from torch import Tensor

from endofm.errors import ConfigError


def check_clip(clip: Tensor, channels: int = 3) -> None:
    """Raise `ConfigError` for what is no clip [B, C, T, H, W] of floating point."""
    if not clip.is_floating_point():
        raise ConfigError(
            "A clip is of floating point, but this one is "
            f"{str(clip.dtype).removeprefix('torch.')} {list(clip.shape)}; "
            "`model.input_spec.normalize(frames)` makes one of uint8 frames [B, T, H, W, 3]."
        )
    if clip.ndim != 5 or clip.shape[1] != channels or 0 in clip.shape:
        raise ConfigError(
            f"A clip is [B, {channels}, T, H, W] with nothing empty, but this one has the shape "
            f"{list(clip.shape)}."
        )


@dataclass(frozen=True)
class InputSpec:
    """Input statistics that belong to weights: RGB in [0, 1] minus `mean`, over `std`.

    `num_frames` and `pixels` (height = width) are what the weights were trained on; others work.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    num_frames: int = 8
    pixels: int = 224

    def __post_init__(self) -> None:
        """Refuse what no network can be shown."""
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"Input statistics need three means and three positive deviations, not {self.mean} "
                f"and {self.std}."
            )
        if self.num_frames < 1 or self.pixels < 1:
            raise ConfigError(
                f"Input of {self.num_frames} frames and {self.pixels} pixels can't be; both are at "
                "least 1."
            )

    def normalize(self, frames: Tensor) -> Tensor:
        """Pixels to a clip: uint8 [B, T, H, W, 3] or [T, H, W, 3] -> float32 [B, 3, T, H, W]."""
        if frames.ndim == 4:
            frames = frames[None]
        if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ConfigError(
                "Frames are uint8 RGB [B, T, H, W, 3], but these are "
                f"{str(frames.dtype).removeprefix('torch.')} {list(frames.shape)}."
            )
        mean = torch.tensor(self.mean, device=frames.device)
        std = torch.tensor(self.std, device=frames.device)
        return ((frames.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3).contiguous()
