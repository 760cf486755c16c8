"""The released segmentation model: a ResNet stem, Endo-FM's blocks, a U-shaped decoder.

Endo-FM's CVC-12k model (Wang et al., MICCAI 2023), after TransUNet (Chen et al., arXiv 2102.04306)
with divided space-time blocks over all frames of a clip in the place of its frame-wise ones.

Shapes: B clips, T frames, H W pixels, h w places at stride 16, D width, K classes.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError
from endofm.models.hybrid_stem import CHANNELS, HybridStem
from endofm.models.input import InputSpec, check_clip
from endofm.models.layers import Resize, resize_positions
from endofm.models.packing import Extent, as_tokens, from_tokens
from endofm.models.timesformer import TimeSformer, TimeSformerConfig

STRIDE = 16
DECODER_CHANNELS = (512, 256, 128, 64, 16)
SKIP_CHANNELS = (*reversed(CHANNELS[:3]), 0)


@dataclass(frozen=True)
class ReleasedSegmentationConfig:
    """Everything that shapes the released segmentation model; the defaults are its own."""

    num_classes: int = 2
    """Classes (K), the background among them."""
    width: int = 768
    """Length of a token."""
    depth: int = 12
    """Number of divided space-time blocks."""
    num_heads: int = 12
    """Attention heads; they share the width evenly."""
    stem_depths: tuple[int, int, int] = (3, 4, 9)
    """Residual units in the stem's three stages."""
    image_pixels: int = 224
    """Side of the frames the position embedding is made for; other sizes resize it on the fly."""
    drop_path: float = 0.1
    """Chance that training drops a branch of the last block; rises linearly from 0 in the first."""
    position_resize: Resize = "smooth"
    """How the position embedding fits other sizes; the released code takes 224 pixels only."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ConfigError(
                f"num_classes is {self.num_classes}; give at least 2, background and one more."
            )
        if min(self.stem_depths) < 1:
            raise ConfigError(f"stem_depths is {list(self.stem_depths)}; each is at least 1.")
        self.blocks()

    def blocks(self) -> TimeSformerConfig:
        """What shapes the transformer blocks; raises `ConfigError` for what can't be built."""
        return TimeSformerConfig(
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            patch_pixels=STRIDE,
            image_pixels=self.image_pixels,
            drop_path=self.drop_path,
            position_resize=self.position_resize,
        )


@dataclass(frozen=True)
class ReleasedInput(InputSpec):
    """Input as the released segmentation code makes it.

    Every frame is scaled to 0 at its darkest value and 1 at its brightest (over all channels), then
    mean and deviation 0.5. Channels go in as blue, green, red: the released code reads pictures
    with OpenCV and leaves them so.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def normalize(self, frames: Tensor) -> Tensor:
        """RGB uint8 [B, T, H, W, 3] or [T, H, W, 3] -> float32 [B, 3, T, H, W], channels reversed.

        A frame of one value becomes the darkest there is.
        """
        clip = InputSpec(mean=(0, 0, 0), std=(1, 1, 1)).normalize(frames)
        low = clip.amin(dim=(1, 3, 4), keepdim=True)
        high = clip.amax(dim=(1, 3, 4), keepdim=True)
        scaled = ((clip - low) / (high - low).clamp_min(1 / 255)).flip(1)
        mean, std = (torch.tensor(v, device=clip.device) for v in (self.mean, self.std))
        return (scaled - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)


class DecoderBlock(nn.Module):
    """Twice the size, a skip beside it, two convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = convolve(in_channels + skip_channels, out_channels)
        self.conv2 = convolve(out_channels, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor | None) -> Tensor:
        """[B, C, H, W] -> [B, C', 2 H, 2 W]."""
        fine = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
        if skip is not None:
            fine = torch.cat([fine, skip], dim=1)
        out: Tensor = self.conv2(self.conv1(fine))
        return out


class Decoder(nn.Module):
    """From tokens at stride 16 to 16 channels at every pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_more = convolve(width, DECODER_CHANNELS[0])
        sizes = zip(pairwise(DECODER_CHANNELS), SKIP_CHANNELS, strict=True)
        self.blocks = nn.ModuleList(DecoderBlock(c, skip, out) for (c, out), skip in sizes)

    def forward(self, coarse: Tensor, skips: list[Tensor]) -> Tensor:
        """[B, D, h, w] and skips from coarse to fine -> [B, 16, H, W]."""
        image: Tensor = self.conv_more(coarse)
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            image = block(image, skip)
        return image


class ReleasedSegmentation(nn.Module):
    """The whole model: a clip in, class scores of every pixel out.

    Frames of any height and width that are multiples of 16 (from 32), any number of them; all
    frames of a clip are seen together. Blocks and last norm are a `TimeSformer`'s, but not the
    position and time embeddings: the only position embedding is its own.
    """

    def __init__(self, config: ReleasedSegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.input_spec = ReleasedInput(pixels=config.image_pixels)
        self.stem = HybridStem(config.stem_depths)
        self.patch_embed = nn.Conv2d(CHANNELS[-1], config.width, kernel_size=1)
        encoder = TimeSformer(config.blocks())
        self.cls_token, self.blocks, self.norm = encoder.cls_token, encoder.blocks, encoder.norm
        rows, columns = config.blocks().grid
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, config.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.decoder = Decoder(config.width)
        self.head = nn.Conv2d(DECODER_CHANNELS[-1], config.num_classes, kernel_size=3, padding=1)

    @property
    def num_classes(self) -> int:
        """Classes (K), the background among them."""
        return self.config.num_classes

    @property
    def patch_pixels(self) -> int:
        """The number that a frame's sides are multiples of."""
        return STRIDE

    def reset_head(self, num_classes: int) -> None:
        """Start the last layer at random, for `num_classes` classes."""
        self.config = replace(self.config, num_classes=num_classes)
        weight = self.head.weight
        self.head = nn.Conv2d(DECODER_CHANNELS[-1], num_classes, kernel_size=3, padding=1)
        self.head.to(weight.device, weight.dtype)

    def forward(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, T, K, H, W]
        """Scores before the softmax; raises `ConfigError` for what `check_sides` refuses."""
        check_sides(clip)
        batch, _, num_frames, _, _ = clip.shape
        features, skips = self.stem(rearrange(clip, "b c t h w -> (b t) c h w"))
        tokens = self.embed(self.patch_embed(features), batch)
        table = from_tokens([tokens])
        extent = Extent(batch, num_frames, (tokens.shape[1] - 1) // num_frames)
        for block in self.blocks:
            table = block(table, [extent])
        (tokens,) = as_tokens(table, [extent])
        rows = features.shape[2]
        coarse = rearrange(
            self.norm(tokens)[:, 1:], "b (h w t) d -> (b t) d h w", h=rows, t=num_frames
        )
        logits: Tensor = self.head(self.decoder(coarse, skips))
        return rearrange(logits, "(b t) k h w -> b t k h w", b=batch)

    def embed(self, patches: Tensor, batch: int) -> Tensor:  # [B T, D, h, w] -> [B, 1 + h w T, D]
        """What enters the first block: the class token, then patches with time running fastest."""
        grid = (patches.shape[2], patches.shape[3])
        own = torch.cat([self.cls_token, self.pos_embed], dim=1)
        own = resize_positions(own, self.config.blocks().grid, grid, self.config.position_resize)
        frames = rearrange(patches, "bt d h w -> bt (h w) d") + own[:, 1:]
        tokens = rearrange(frames, "(b t) n d -> b (n t) d", b=batch)
        return torch.cat([own[:, :1].expand(batch, -1, -1), tokens], dim=1)

    def start_from(self, backbone: TimeSformer) -> None:
        """Take over a pretrained backbone's blocks, last norm and class token.

        Raises `ConfigError` for a backbone of another width, depth, number of heads or attention.
        """
        own = self.config.blocks()
        for name in ("width", "depth", "num_heads", "attention"):
            given, wanted = getattr(backbone.config, name), getattr(own, name)
            if given != wanted:
                raise ConfigError(
                    f"The backbone has {name} {given}, but the segmentation model {wanted}; "
                    "build both alike."
                )
        self.blocks.load_state_dict(backbone.blocks.state_dict())
        self.norm.load_state_dict(backbone.norm.state_dict())
        with torch.no_grad():
            self.cls_token.copy_(backbone.cls_token)


def build_released_segmentation(
    config: ReleasedSegmentationConfig | None = None,
) -> ReleasedSegmentation:
    """The released design with random weights; by default in the released sizes."""
    return ReleasedSegmentation(config or ReleasedSegmentationConfig())


def convolve(in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def check_sides(clip: Tensor) -> None:
    """Raise `ConfigError` unless `clip` is [B, 3, T, H, W] with sides 32, 48, 64, ..."""
    check_clip(clip)
    height, width = clip.shape[-2:]
    above = [max(-(-side // STRIDE), 2) * STRIDE for side in (height, width)]
    if above != [height, width]:
        raise ConfigError(
            f"The clip's frames are {height} x {width}, but both sides must be multiples of "
            f"{STRIDE} from {2 * STRIDE} on; resize or pad them to {above[0]} x {above[1]}."
        )
