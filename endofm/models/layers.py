"""Layers of the video transformer: patches, attention, MLP, and embeddings resized to a clip.

Shapes: B clips, T frames, C channels, H W pixels, N tokens, D width.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.models.input import check_clip

Resize = Literal["nearest", "smooth"]

PRODUCTS_ON_CPU = range(9, 400)
"""Sequence lengths at which two matrix products beat the fused kernel on a CPU."""


class PatchEmbed(nn.Module):
    """Cuts every frame into square patches and projects each to a token."""

    def __init__(self, patch_pixels: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.patch_pixels = patch_pixels
        self.in_channels = in_channels
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_pixels, stride=patch_pixels)

    def forward(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, T, h, w, D]
        """One token a patch; raises `ConfigError` for a clip that patches can't tile."""
        self._check(clip)
        patches = self.proj(rearrange(clip, "b c t h w -> (b t) c h w"))
        grid: Tensor = rearrange(patches, "(b t) d h w -> b t h w d", b=clip.shape[0])
        return grid

    def _check(self, clip: Tensor) -> None:
        check_clip(clip, self.in_channels)
        patch = self.patch_pixels
        for side, pixels in zip(("height", "width"), clip.shape[-2:], strict=True):
            if pixels % patch:
                below, above = pixels // patch * patch, (pixels // patch + 1) * patch
                nearest = f"{below} or {above}" if below else f"{above}"
                raise ConfigError(
                    f"The clip's {side} of {pixels} pixels is not a multiple of the patch size "
                    f"{patch}; resize or pad it to {nearest}."
                )


class Attention(nn.Module):
    """Multi-head self-attention by the fastest kernel of the device."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, N, D]
        """Every token gathers from all tokens of its sequence."""
        out: Tensor = self.proj(self.gather(self.qkv(tokens)))
        return out

    def gather(self, qkv: Tensor, num_queries: int | None = None) -> Tensor:
        """What lies between the two linear layers: [B, N, 3 D] -> [B, N, D].

        Or [B, num_queries, D], for the first tokens only.
        """
        query, key, value = self._heads(qkv)
        gathered = attend(query[:, :, :num_queries], key, value)
        return rearrange(gathered, "b heads n d -> b n (heads d)")

    def maps(self, qkv: Tensor) -> Tensor:  # [B, N, 3 D] -> [B, heads, N, N]
        """What the fused kernel doesn't show: the weight each token (row) gives to each other."""
        query, key, _ = self._heads(qkv)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        return scores.softmax(dim=-1)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = rearrange(
            qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads
        )
        return heads[0], heads[1], heads[2]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [B, heads, N, D] each
    """Attention by the fastest kernel of the device.

    Fused (memory linear in N) on a GPU. On a CPU the fused kernel is the slower one for sequences
    of middling length, in bfloat16 for short ones too, several times so in the backward pass; two
    products are taken there.
    """
    length = key.shape[-2]
    if query.device.type == "cpu" and (
        length in PRODUCTS_ON_CPU
        or (query.dtype == torch.bfloat16 and length < PRODUCTS_ON_CPU.start)
    ):
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class DropPath(nn.Module):
    """Drops updates of whole sequences in training, and scales up the others to make up for it.

    Huang et al.: Deep Networks with Stochastic Depth (ECCV 2016).
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    @property
    def acts(self) -> bool:
        """Whether anything can be dropped now."""
        return self.training and self.drop_prob > 0

    def draw(self, num_sequences: int, like: Tensor) -> Tensor:  # [num_sequences, 1]
        """What the sequences' updates are to be multiplied by: 0, or 1 / (1 - drop_prob)."""
        kept = 1 - self.drop_prob
        return like.new_empty(num_sequences, 1).bernoulli_(kept).div_(kept)


class Mlp(nn.Module):
    """Two linear layers with an (exact) GELU between them, on every token alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:  # [..., D] -> [..., D]
        """Widen, bend, narrow."""
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


def resize_positions(
    positions: Tensor, old_grid: tuple[int, int], grid: tuple[int, int], how: Resize
) -> Tensor:  # [1, 1 + h w, D] -> [1, 1 + h' w', D]
    """Position embeddings for another patch grid; the class token's (the first) stays.

    `smooth` is bicubic, low-passed where the grid shrinks (as timm does).
    """
    if grid == old_grid:
        return positions
    of_class, of_patches = positions[:, :1], positions[:, 1:]
    planes = rearrange(of_patches, "1 (h w) d -> 1 d h w", h=old_grid[0])
    if how == "nearest":
        planes = F.interpolate(planes, size=grid, mode="nearest")
    else:
        smooth = F.interpolate(planes.float(), size=grid, mode="bicubic", antialias=True)
        planes = smooth.to(positions.dtype)
    return torch.cat([of_class, rearrange(planes, "1 d h w -> 1 (h w) d")], dim=1)


def resize_times(times: Tensor, num_frames: int, how: Resize) -> Tensor:  # [1, T, D] -> [1, T', D]
    """Time embeddings for another number of frames; `smooth` is linear."""
    if times.shape[1] == num_frames:
        return times
    lines = rearrange(times, "1 t d -> 1 d t")
    if how == "nearest":
        lines = F.interpolate(lines, size=num_frames, mode="nearest")
    else:
        lines = F.interpolate(lines.float(), size=num_frames, mode="linear").to(times.dtype)
    return rearrange(lines, "1 d t -> 1 t d")
