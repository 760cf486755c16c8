"""A light segmentation head: from a backbone's token grid straight to masks.

Shapes: B clips, T frames, h w patches, D width, K classes, H W pixels.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError


class Upsample(nn.Sequential):
    """Twice the size, smoothly, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(1, out_channels),
            nn.GELU(),
        )


class PyramidDecoder(nn.Module):
    """Levels of twice the size and half the channels, then class scores at any size.

    Frames are decoded one by one: it is the backbone that looks from frame to frame. No skips, so
    an outline is as sharp as the tokens and `num_levels` allow: with patches of 16 pixels and three
    levels, scores are worked out at every second pixel and interpolated from there.
    """

    def __init__(
        self, width: int, num_classes: int, channels: int = 256, num_levels: int = 3
    ) -> None:
        super().__init__()
        if min(width, num_levels) < 1 or num_classes < 2 or channels % 2**num_levels:
            raise ConfigError(
                f"A segmentation head can't have width {width}, {num_classes} classes and "
                f"{num_levels} levels from {channels} channels; give at least 2 classes, the "
                f"background among them, and channels that 2^{num_levels} divides."
            )
        self.enter = nn.Conv2d(width, channels, kernel_size=1)
        sizes = [channels >> level for level in range(num_levels + 1)]
        self.levels = nn.Sequential(
            *(Upsample(sizes[level], sizes[level + 1]) for level in range(num_levels))
        )
        self.classify = nn.Conv2d(sizes[-1], num_classes, kernel_size=1)

    @property
    def num_classes(self) -> int:
        """Classes (K), the background among them."""
        return self.classify.out_channels

    def forward(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens [B, T, h, w, D] -> scores before the softmax [B, T, K, H, W], `size` (H, W)."""
        frames = rearrange(grid, "b t h w d -> (b t) d h w")
        logits: Tensor = self.classify(self.levels(self.enter(frames)))
        logits = F.interpolate(logits, size=size, mode="bilinear")
        return rearrange(logits, "(b t) k h w -> b t k h w", b=grid.shape[0])
