"""The plain reference, network: TimeSformer as its equations say it, with the weights of ours.

Written to be read, not to be fast: one view at a time, attention with its matrix written out,
every token through every layer. Only what pretraining needs: divided space-time attention, the
feature.

Shapes: B clips, T frames, C channels, H W pixels, N = h w T patches, D width, K prototypes,
V views.
"""

import math
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from endofm.models.layers import Attention, DropPath, resize_positions, resize_times
from endofm.models.timesformer import DividedBlock, TimeSformer
from endofm.tasks.pretraining.endofm import Branch


def plain_logits(branch: Branch, views: list[Tensor]) -> Tensor:  # V of [B, C, T, H, W]
    """Scores over prototypes, view by view: [V, B, K]."""
    features = [plain_features(branch.backbone, view) for view in views]
    logits: Tensor = branch.head(torch.cat(features))
    return rearrange(logits, "(v b) k -> v b k", v=len(views))


def plain_features(backbone: TimeSformer, clip: Tensor) -> Tensor:  # [B, C, T, H, W] -> [B, D]
    """The class token after the last norm."""
    config, num_frames = backbone.config, clip.shape[2]
    patches = backbone.patch_embed(clip)  # [B, T, h, w, D]
    grid = (patches.shape[2], patches.shape[3])
    positions = resize_positions(backbone.pos_embed, config.grid, grid, config.position_resize)
    assert backbone.time_embed is not None
    times = resize_times(backbone.time_embed, num_frames, config.position_resize)
    placed = rearrange(patches, "b t h w d -> b t (h w) d") + positions[:, 1:]
    timed = rearrange(placed, "b t n d -> b n t d") + times
    of_class = (backbone.cls_token + positions[:, :1]).expand(len(clip), -1, -1)
    tokens = torch.cat([of_class, rearrange(timed, "b n t d -> b (n t) d")], dim=1)
    for block in backbone.blocks:
        tokens = plain_block(cast(DividedBlock, block), tokens, num_frames)
    feature: Tensor = backbone.norm(tokens)[:, 0]
    return feature


def plain_block(block: DividedBlock, tokens: Tensor, num_frames: int) -> Tensor:
    """Time, space, MLP: [B, 1 + N, D], updated."""
    batch, drop = len(tokens), block.drop_path
    of_class, patches = tokens[:, :1], tokens[:, 1:]
    in_time = rearrange(patches, "b (n t) d -> (b n) t d", t=num_frames)
    update = plain_drop(drop, plain_attention(block.temporal_attn, block.temporal_norm1(in_time)))
    update = rearrange(update, "(b n) t d -> b (n t) d", b=batch)
    patches = patches + block.temporal_fc(update)

    frames = torch.cat(
        [
            repeat(of_class, "b one d -> (b t) one d", t=num_frames),
            rearrange(patches, "b (n t) d -> (b t) n d", t=num_frames),
        ],
        dim=1,
    )
    update = plain_drop(drop, plain_attention(block.attn, block.norm1(frames)))
    of_copies = rearrange(update[:, :1], "(b t) one d -> b (t one) d", t=num_frames)
    of_patches = rearrange(update[:, 1:], "(b t) n d -> b (n t) d", t=num_frames)
    update = torch.cat([of_copies.mean(dim=1, keepdim=True), of_patches], dim=1)
    tokens = torch.cat([of_class, patches], dim=1) + update

    widened = F.gelu(block.mlp.fc1(block.norm2(tokens)))
    return tokens + plain_drop(drop, block.mlp.fc2(widened))


def plain_attention(attention: Attention, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, N, D]
    """softmax(Q K^T / sqrt(d)) V, with the softmax as a matrix in memory."""
    heads = attention.num_heads
    qkv = rearrange(attention.qkv(tokens), "b n (k h d) -> k b h n d", k=3, h=heads)
    query, key, value = qkv[0], qkv[1], qkv[2]
    scores = (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]))
    gathered = scores.softmax(dim=-1) @ value
    out: Tensor = attention.proj(rearrange(gathered, "b h n d -> b n (h d)"))
    return out


def plain_drop(drop: DropPath, update: Tensor) -> Tensor:  # [sequences, ...]
    """In training, whole sequences of the update dropped and the others scaled up."""
    if not drop.acts:
        return update
    kept = drop.draw(len(update), update)
    return update * kept.view(-1, *[1] * (update.ndim - 1))
