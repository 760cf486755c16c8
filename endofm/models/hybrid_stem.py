"""The convolutional stem of the released segmentation model: three stages of a ResNet-50 (v2).

timm's `ResNetV2` in its form for hybrid transformers (weight-standardised convolutions, group norm,
activation after), with what the released model has otherwise: its epsilons, a first pooling
without padding, and shortcut projections normalised channel by channel.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (64, 256, 512, 1024)
"""Channels at strides 2, 4, 8 and 16."""


class HybridStem(nn.Module):
    """A frame's features at stride 16, and those at strides 8, 4 and 2 for a decoder's skips."""

    def __init__(self, depths: tuple[int, int, int] = (3, 4, 9)) -> None:
        from timm.layers import GroupNormAct, StdConv2d
        from timm.models.resnetv2 import ResNetV2

        super().__init__()
        self.net = ResNetV2(
            depths,
            CHANNELS[1:],
            num_classes=0,
            global_pool="",
            preact=False,
            norm_layer=partial(GroupNormAct, num_groups=32, eps=1e-6),
            conv_layer=partial(StdConv2d, eps=1e-5),
        )
        self.net.stem.pool = nn.MaxPool2d(3, stride=2)
        for stage in self.net.stages:
            shortcut = stage.blocks[0].downsample
            channels = shortcut.conv.out_channels
            shortcut.norm = nn.GroupNorm(channels, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, 3, H, W], sides multiples of 16 -> [B, 1024, H/16, W/16] and three skips.

        The skips run from coarse to fine: 512 channels at stride 8, 256 at 4, 64 at 2.
        """
        half = self.net.stem.norm(self.net.stem.conv(images))
        quarter = self.net.stages[0](self.net.stem.pool(half))
        eighth = self.net.stages[1](quarter)
        last: Tensor = self.net.stages[2](eighth)
        # The pooling without padding loses a row and a column, which the skip gets back as zeros.
        return last, [eighth, F.pad(quarter, (0, 1, 0, 1)), half]
