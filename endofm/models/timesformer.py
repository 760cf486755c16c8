"""TimeSformer, the backbone of Endo-FM: a vision transformer over the patches of a clip.

Bertasius, Wang, Torresani: Is Space-Time Attention All You Need for Video Understanding? (ICML
2021); details as in Endo-FM's released code, whose parameter names it keeps. A clip's tokens are
one class token, then its patches with time running fastest: (h w t).

Shapes: B clips, T frames, C channels, H W pixels, h w patches, N = h w T tokens, D width.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import rearrange, reduce, repeat
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from endofm.errors import ConfigError
from endofm.models.input import InputSpec
from endofm.models.layers import (
    Attention,
    Mlp,
    PatchEmbed,
    Resize,
    resize_positions,
    resize_times,
)

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
COUNTS = (
    "width",
    "depth",
    "num_heads",
    "patch_pixels",
    "image_pixels",
    "num_frames",
    "in_channels",
)


@dataclass(frozen=True)
class TimeSformerConfig:
    """Everything that shapes a TimeSformer; raises `ConfigError` for what can't be built."""

    width: int
    """Length of a token."""
    depth: int
    """Number of transformer blocks."""
    num_heads: int
    """Attention heads; they share the width evenly."""
    patch_pixels: int = 16
    """Side of a square patch."""
    image_pixels: int = 224
    """Side of the frames the position embedding is made for; other sizes resize it on the fly."""
    num_frames: int = 8
    """Frames the time embedding is made for; other numbers resize it on the fly."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP, in token widths."""
    attention: AttentionType = "divided_space_time"
    """Time then space, all tokens at once, or every frame alone (then the frames' mean)."""
    drop_path: float = 0.1
    """Chance that training drops a branch of the last block; rises linearly from 0 in the first."""
    layer_norm_eps: float = 1e-6
    """Added to the variance in every LayerNorm."""
    in_channels: int = 3
    """Channels of a frame."""
    position_resize: Resize = "nearest"
    """How embeddings fit other sizes: nearest as published weights need, or bicubic and linear."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, more time, the same numbers."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.num_heads:
            raise ConfigError(
                f"width {self.width} can't be shared by {self.num_heads} heads; "
                f"choose num_heads among the divisors of {self.width}."
            )
        if self.image_pixels % self.patch_pixels:
            above = math.ceil(self.image_pixels / self.patch_pixels) * self.patch_pixels
            raise ConfigError(
                f"image_pixels {self.image_pixels} is not a multiple of patch_pixels "
                f"{self.patch_pixels}; the next that is: {above}."
            )
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it is a chance, from 0 to below 1.")
        if self.mlp_ratio * self.width < 1 or self.layer_norm_eps <= 0:
            raise ConfigError(
                f"mlp_ratio {self.mlp_ratio} and layer_norm_eps {self.layer_norm_eps} "
                "must be above 0; 4.0 and 1e-6 are usual."
            )
        for name, kind in (("attention", AttentionType), ("position_resize", Resize)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches the position embedding is made for."""
        side = self.image_pixels // self.patch_pixels
        return side, side


class Block(nn.Module):
    """One attention over all tokens it is given, then the MLP."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.adapters = nn.ModuleDict()
        """By the half of the block they come before; `add_st_adapters` fills it."""

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """[B, 1 + N, D], updated; `num_frames` says how many frames lie in N."""
        tokens = self.attend(self.adapt("attention", tokens, num_frames), num_frames)
        tokens = self.adapt("mlp", tokens, num_frames)
        updated: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return updated

    def attend(self, tokens: Tensor, num_frames: int) -> Tensor:
        """The attention half of the block."""
        updated: Tensor = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return updated

    def adapt(self, half: str, tokens: Tensor, num_frames: int) -> Tensor:
        """The tokens through the adapter before the `attention` or the `mlp`, if there is one."""
        if half not in self.adapters:
            return tokens
        adapted: Tensor = self.adapters[half](tokens, num_frames)
        return adapted

    def attention_maps(self, tokens: Tensor, num_frames: int) -> Tensor:
        """The block's attention, made visible: [B, heads, 1 + N, 1 + N]."""
        return self.attn.maps(self.norm1(tokens))


class DividedBlock(Block):
    """Attention over the frames of each place, then the patches of each frame; then the MLP."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.temporal_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.temporal_attn = Attention(config.width, config.num_heads)
        self.temporal_fc = nn.Linear(config.width, config.width)

    def attend(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Time, then space. In training, whole sequences and frames drop out, each on its own."""
        tokens = self.attend_in_time(tokens, num_frames)
        return self.attend_in_space(tokens, num_frames)

    def attend_in_time(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Each place (h, w) over its frames; the class token takes no part.

        `temporal_fc` comes after drop path: a dropped sequence still gets its bias (as released).
        """
        of_class, patches = tokens[:, :1], tokens[:, 1:]
        sequences = rearrange(self.temporal_norm1(patches), "b (n t) d -> (b n) t d", t=num_frames)
        update = self.drop_path(self.temporal_attn(sequences))
        update = rearrange(update, "(b n) t d -> b (n t) d", b=tokens.shape[0])
        return torch.cat([of_class, patches + self.temporal_fc(update)], dim=1)

    def attend_in_space(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Each frame over its patches and a copy of the class token; the copies are averaged."""
        frames = self._frames(tokens, num_frames)
        update = self.drop_path(self.attn(self.norm1(frames)))
        of_class = reduce(update[:, :1], "(b t) one d -> b one d", "mean", t=num_frames)
        of_patches = rearrange(update[:, 1:], "(b t) n d -> b (n t) d", t=num_frames)
        return tokens + torch.cat([of_class, of_patches], dim=1)

    def attention_maps(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Attention of every frame after the temporal half: [B T, heads, 1 + h w, 1 + h w]."""
        tokens = self.attend_in_time(tokens, num_frames)
        return self.attn.maps(self.norm1(self._frames(tokens, num_frames)))

    @staticmethod
    def _frames(tokens: Tensor, num_frames: int) -> Tensor:  # [B, 1 + N, D] -> [B T, 1 + h w, D]
        of_class = repeat(tokens[:, :1], "b one d -> (b t) one d", t=num_frames)
        patches = rearrange(tokens[:, 1:], "b (n t) d -> (b t) n d", t=num_frames)
        return torch.cat([of_class, patches], dim=1)


class TimeSformer(nn.Module):
    """The backbone: a clip in, its feature (`forward`) or all its tokens (`tokens`) out.

    Any height and width that patches tile, any number of frames: embeddings are resized.
    """

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_spec = InputSpec(num_frames=config.num_frames, pixels=config.image_pixels)
        width, (rows, columns) = config.width, config.grid
        self.patch_embed = PatchEmbed(config.patch_pixels, config.in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))
        if config.attention == "space_only":
            self.register_parameter("time_embed", None)
        else:
            self.time_embed = nn.Parameter(torch.zeros(1, config.num_frames, width))
        block = DividedBlock if config.attention == "divided_space_time" else Block
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            block(config, config.drop_path * index / last) for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self._initialise()

    @property
    def width(self) -> int:
        """Length of a token, and of the clip's feature."""
        return self.config.width

    @property
    def patch_pixels(self) -> int:
        """The number that a frame's sides are multiples of."""
        return self.config.patch_pixels

    @property
    def num_features(self) -> int:
        """The same as `width`, under timm's name."""
        return self.config.width

    def forward(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, D]
        """The clip's feature: the class token after the last norm.

        With `space_only` the frames' class tokens are averaged before that norm.
        """
        of_class = self._encode(clip)[:, 0]
        if self.config.attention == "space_only":
            of_class = reduce(of_class, "(b t) d -> b d", "mean", b=clip.shape[0])
        feature: Tensor = self.norm(of_class)
        return feature

    def tokens(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, 1 + N, D]
        """All tokens after the last norm: what `forward` gives, then the patches as (h w t)."""
        encoded = self._encode(clip)
        if self.config.attention == "space_only":
            batch = clip.shape[0]
            of_class = reduce(encoded[:, :1], "(b t) one d -> b one d", "mean", b=batch)
            patches = rearrange(encoded[:, 1:], "(b t) n d -> b (n t) d", b=batch)
            encoded = torch.cat([of_class, patches], dim=1)
        normed: Tensor = self.norm(encoded)
        return normed

    def attention(self, clip: Tensor) -> Tensor:
        """The last block's attention maps, rows summing to 1.

        [B T, heads, 1 + h w, 1 + h w], frame by frame, the class token first; with
        `joint_space_time` over all tokens of a clip, [B, heads, 1 + N, 1 + N].
        """
        tokens = self.embed(clip)
        num_frames = clip.shape[2]
        for block in self.blocks[:-1]:
            tokens = block(tokens, num_frames)
        last = cast(Block, self.blocks[-1])
        return last.attention_maps(last.adapt("attention", tokens, num_frames), num_frames)

    def embed(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, 1 + N, D]
        """What enters the first block; with `space_only` each frame is a row: [B T, 1 + h w, D]."""
        patches = self.patch_embed(clip)
        batch, num_frames, rows, columns, _ = patches.shape
        how = self.config.position_resize
        positions = resize_positions(self.pos_embed, self.config.grid, (rows, columns), how)
        frames = rearrange(patches, "b t h w d -> b t (h w) d") + positions[:, 1:]
        of_class = self.cls_token + positions[:, :1]
        if self.config.attention == "space_only":
            of_class = of_class.expand(batch * num_frames, -1, -1)
            return torch.cat([of_class, rearrange(frames, "b t n d -> (b t) n d")], dim=1)
        times = resize_times(self.time_embed, num_frames, how)
        timed = rearrange(frames, "b t n d -> b n t d") + times
        of_class = of_class.expand(batch, -1, -1)
        return torch.cat([of_class, rearrange(timed, "b n t d -> b (n t) d")], dim=1)

    def _encode(self, clip: Tensor) -> Tensor:  # before the last norm, laid out as `embed` does
        tokens = self.embed(clip)
        num_frames = clip.shape[2]
        recompute = self.config.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute:
                tokens = cast(Tensor, checkpoint(block, tokens, num_frames, use_reentrant=False))
            else:
                tokens = block(tokens, num_frames)
        return tokens

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        # As released: time starts without effect, but for the first block.
        for block in self.blocks[1:]:
            if isinstance(block, DividedBlock):
                nn.init.zeros_(block.temporal_fc.weight)
