"""TimeSformer, the backbone of Endo-FM: a vision transformer over the patches of a clip.

Bertasius, Wang, Torresani: Is Space-Time Attention All You Need for Video Understanding? (ICML
2021); details as in Endo-FM's released code, whose parameter names it keeps. A clip's tokens are
one class token, then its patches with time running fastest: (h w t).

Shapes: B clips, T frames, C channels, H W pixels, h w patches, N = h w T tokens, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from endofm.allocator import give_back_before_gradient, give_back_freed_memory
from endofm.errors import ConfigError
from endofm.models.input import InputSpec
from endofm.models.layers import (
    Attention,
    DropPath,
    Mlp,
    PatchEmbed,
    Resize,
    resize_positions,
    resize_times,
)
from endofm.models.packing import (
    Extent,
    Extents,
    as_tokens,
    from_tokens,
    halves,
    in_packs,
    pack,
    parts,
)

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
BLOCKS_BETWEEN = 4
"""Blocks recomputed on a CPU before freed memory is given back again, which costs time."""
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
    """Recompute blocks in the backward pass: less memory, more time, the same mathematics."""

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
    """Attention of every class token with its patches, then the MLP, on a table of tokens."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.adapters = nn.ModuleDict()
        """By the half of the block they come before; `add_st_adapters` fills it."""

    def forward(self, table: Tensor, extents: Extents, only_class: bool = False) -> Tensor:
        """[R, D], updated; with `only_class` just its class tokens, [S, D], for less work."""
        table = self.attend(self.adapt("attention", table, extents), extents, only_class)
        table = self.adapt("mlp", table, extents)
        update = self.mlp(self.norm2(table))
        if self.drop_path.acts:  # on whole clips
            kept = [self.drop_path.draw(extent.class_rows, update) for extent in extents]
            lengths = [0 if only_class else e.patch_rows // e.class_rows for e in extents]
            spread = [k.repeat_interleave(n, 0) for k, n in zip(kept, lengths, strict=True)]
            update = update * pack(kept, spread)
        updated: Tensor = table + update
        return updated

    def attend(self, table: Tensor, extents: Extents, only_class: bool) -> Tensor:
        """The attention half of the block."""
        return self.attend_in_space(table, extents, only_class)

    def attend_in_space(self, table: Tensor, extents: Extents, only_class: bool) -> Tensor:
        """Each frame over its patches and a copy of the class token; the copies are averaged.

        Frames are those of `frames_of`. In training, whole frames drop out.
        """
        qkv, times = self.attn.qkv(self.norm1(table)), [self.frames_of(e) for e in extents]
        of_class, of_patches, framed = [], [], []
        for (one, patches), t in zip(parts(qkv, extents), times, strict=True):
            frames = as_frames(one, patches, t)
            gathered = self.attn.gather(frames, num_queries=1 if only_class else None)
            framed.append(Extent(gathered.shape[0], 1, gathered.shape[1] - 1))
            first, rest = torch.split(gathered, [1, framed[-1].places], dim=1)
            of_class.append(first[:, 0])
            of_patches.append(rearrange(rest, "(s t) n d -> (s n t) d", t=t))
        update = self.attn.proj(pack(of_class, of_patches))
        if self.drop_path.acts:
            kept = [self.drop_path.draw(extent.clips, update) for extent in framed]
            spread = [
                repeat(k, "(s t) 1 -> (s n t) 1", t=t, n=extent.places)
                for k, t, extent in zip(kept, times, framed, strict=True)
            ]
            update = update * pack(kept, spread)
        copies = [one for one, _ in parts(update, framed)]
        means = [
            reduce(c, "(s t) d -> s d", "mean", t=t) for c, t in zip(copies, times, strict=True)
        ]
        if only_class:
            return halves(table, extents)[0] + torch.cat(means)
        return table + pack(means, [halves(update, framed)[1]])

    def frames_of(self, extent: Extent) -> int:
        """How many parts a class token's patches are attended to in."""
        return 1

    def adapt(self, half: str, table: Tensor, extents: Extents) -> Tensor:
        """The tokens through the adapter before the `attention` or the `mlp`, if there is one."""
        if half not in self.adapters:
            return table
        tokens = zip(as_tokens(table, extents), extents, strict=True)
        return from_tokens([self.adapters[half](one, extent.num_frames) for one, extent in tokens])

    def attention_maps(self, table: Tensor, extent: Extent) -> Tensor:
        """The attention of clips, made visible: [S T, heads, 1 + n, 1 + n], T by `frames_of`."""
        ((of_class, of_patches),) = parts(self.attn.qkv(self.norm1(table)), [extent])
        return self.attn.maps(as_frames(of_class, of_patches, self.frames_of(extent)))


class DividedBlock(Block):
    """Attention over the frames of each place, then the patches of each frame; then the MLP."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.temporal_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.temporal_attn = Attention(config.width, config.num_heads)
        self.temporal_fc = nn.Linear(config.width, config.width)

    def attend(self, table: Tensor, extents: Extents, only_class: bool) -> Tensor:
        """Time, then space."""
        return self.attend_in_space(self.attend_in_time(table, extents), extents, only_class)

    def attend_in_time(self, table: Tensor, extents: Extents) -> Tensor:
        """Each place (h, w) over its frames; the class token takes no part.

        In training, whole sequences drop out. `temporal_fc` comes after drop path: a dropped
        sequence still gets its bias (as released).
        """
        of_class, patches = halves(table, extents)
        qkv = self.temporal_attn.qkv(self.temporal_norm1(patches))
        pieces = torch.split(qkv, [extent.patch_rows for extent in extents])
        sequences = [
            rearrange(piece, "(sequences t) d -> sequences t d", t=extent.num_frames)
            for piece, extent in zip(pieces, extents, strict=True)
        ]
        gathered = [self.temporal_attn.gather(one).flatten(0, 1) for one in sequences]
        update = self.temporal_attn.proj(torch.cat(gathered))
        if self.drop_path.acts:
            kept = [
                self.drop_path.draw(one.shape[0], update).repeat_interleave(one.shape[1], 0)
                for one in sequences
            ]
            update = update * torch.cat(kept)
        return pack([of_class], [patches + self.temporal_fc(update)])

    def frames_of(self, extent: Extent) -> int:
        """The clip's frames."""
        return extent.num_frames

    def attention_maps(self, table: Tensor, extent: Extent) -> Tensor:
        """Attention of every frame after the temporal half: [B T, heads, 1 + h w, 1 + h w]."""
        return super().attention_maps(self.attend_in_time(table, [extent]), extent)


def as_frames(of_class: Tensor, of_patches: Tensor, num_frames: int) -> Tensor:
    """Frames with a copy of their class token: [S, D] and [S n T, D] -> [S T, 1 + n, D]."""
    copies = repeat(of_class, "s d -> (s t) 1 d", t=num_frames)
    patches = rearrange(of_patches, "(s n t) d -> (s t) n d", s=of_class.shape[0], t=num_frames)
    return torch.cat([copies, patches], dim=1)


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

    def forward(self, *clips: Tensor) -> Tensor:  # [B, C, T, H, W] each -> [all B, D]
        """The clips' features, in order: the class tokens after the last norm.

        Clips of several shapes, given together, share the matrix products; with gradient
        checkpointing as far as memory for the largest lasts. With `space_only` the frames' class
        tokens are averaged before the last norm.
        """
        if not self._recomputes:
            return self._features(clips)
        features = []
        for together in in_packs(clips):
            features.append(self._features(together))
            give_back_freed_memory(together[0].device)
        return torch.cat(features)

    def _features(self, clips: Sequence[Tensor]) -> Tensor:
        table, extents = self.embed(*clips)
        of_class = self._encode(table, extents, only_class=True)
        if self.config.attention == "space_only":
            pieces = torch.split(of_class, [extent.class_rows for extent in extents])
            of_class = torch.cat(
                [
                    reduce(piece, "(b t) d -> b d", "mean", b=extent.clips)
                    for piece, extent in zip(pieces, extents, strict=True)
                ]
            )
        feature: Tensor = self.norm(of_class)
        return feature

    def tokens(self, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, 1 + N, D]
        """All tokens after the last norm: what `forward` gives, then the patches as (h w t)."""
        table, extents = self.embed(clip)
        (encoded,) = as_tokens(self._encode(table, extents), extents)
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
        table, extents = self.embed(clip)
        for block in self.blocks[:-1]:
            table = block(table, extents)
        last = cast(Block, self.blocks[-1])
        return last.attention_maps(last.adapt("attention", table, extents), extents[0])

    def embed(self, *clips: Tensor) -> tuple[Tensor, list[Extent]]:
        """What enters the first block: a table of all tokens, and the clips' places in it."""
        pairs = [self._embed(clip) for clip in clips]
        table = pack([of_class for of_class, _, _ in pairs], [patches for _, patches, _ in pairs])
        return table, [extent for _, _, extent in pairs]

    def _embed(self, clip: Tensor) -> tuple[Tensor, Tensor, Extent]:
        patches = self.patch_embed(clip)
        batch, num_frames, rows, columns, _ = patches.shape
        how, apart = self.config.position_resize, self.config.attention == "space_only"
        positions = resize_positions(self.pos_embed, self.config.grid, (rows, columns), how)
        frames = rearrange(patches, "b t h w d -> b t (h w) d") + positions[:, 1:]
        extent = Extent(batch, num_frames, rows * columns, apart)
        of_class = (self.cls_token + positions[:, :1])[0].expand(extent.class_rows, -1)
        if apart:
            return of_class, frames.flatten(0, 2), extent
        timed = rearrange(frames, "b t n d -> b n t d")
        timed = timed + resize_times(self.time_embed, num_frames, how)
        return of_class, timed.flatten(0, 2), extent

    def _encode(self, table: Tensor, extents: Extents, only_class: bool = False) -> Tensor:
        """The table before the last norm, or its class tokens.

        The last block spares itself what only patches gain from, unless an adapter wants them.
        """
        for number, block in enumerate(self.blocks):
            last = only_class and block is self.blocks[-1] and not block.adapters
            if self._recomputes:
                table = cast(Tensor, checkpoint(block, table, extents, last, use_reentrant=False))
                if (len(self.blocks) - 1 - number) % BLOCKS_BETWEEN == 0:
                    give_back_before_gradient(table)
            else:
                table = block(table, extents, last)
        if only_class and self.blocks[-1].adapters:
            return halves(table, extents)[0]
        return table

    @property
    def _recomputes(self) -> bool:
        return self.config.gradient_checkpointing and torch.is_grad_enabled()

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
