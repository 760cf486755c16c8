"""Few new parameters in a frozen TimeSformer: ST-Adapter and LoRA. Both start as the identity.

ST-Adapter: Pan et al., ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning (NeurIPS
2022), without an activation, as released. LoRA: Hu et al., Low-Rank Adaptation of Large Language
Models (ICLR 2022). Every published name stays in the state dict; the new ones are
`blocks.0.adapters.mlp.{down,conv,up}.{weight,bias}` (also `adapters.attention`), and
`blocks.0.attn.qkv.lora_{a,b}` beside `blocks.0.attn.qkv.weight`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from endofm.errors import ConfigError
from endofm.models.timesformer import Block, TimeSformer

Before = Literal["mlp", "both"]
LINEAR_LAYERS = ("qkv", "proj", "fc1", "fc2")
"""Layers of a block that LoRA can go into: of every attention, and of the MLP."""


class STAdapter(nn.Module):
    """Patch tokens, narrowed, look at the frames before and after, and are widened again.

    The class token takes no part. With `frames_apart` every frame is a row of its own
    (`space_only`); else the tokens of a clip lie as (h w t).
    """

    def __init__(self, width: int, bottleneck: int, frames_apart: bool) -> None:
        super().__init__()
        self.frames_apart = frames_apart
        self.down = nn.Linear(width, bottleneck)
        # A depthwise convolution (3, 1, 1): three frames, one place, each channel alone.
        self.conv = nn.Conv1d(bottleneck, bottleneck, kernel_size=3, padding=1, groups=bottleneck)
        self.up = nn.Linear(bottleneck, width)
        for zero in (self.conv.weight, self.down.bias, self.conv.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """[B, 1 + N, D], or [B T, 1 + h w, D] with frames apart; updated."""
        of_class, patches = tokens[:, :1], tokens[:, 1:]
        rows = "(b t) n" if self.frames_apart else "b (n t)"
        sizes = {"b": len(tokens) // (num_frames if self.frames_apart else 1), "t": num_frames}
        lines = rearrange(self.down(patches), f"{rows} d -> (b n) d t", **sizes)
        update = self.up(rearrange(self.conv(lines), f"(b n) d t -> {rows} d", **sizes))
        return torch.cat([of_class, patches + update], dim=1)


class LoraLinear(nn.Linear):
    """A linear layer plus a product of two thin matrices, the second of which starts at zero.

    It takes the layer's own weight and bias, under their names.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:  # [..., in] -> [..., out]
        """W x + b + (alpha / rank) B A x."""
        update = F.linear(F.linear(tokens, self.lora_a), self.lora_b)
        return F.linear(tokens, self.weight, self.bias) + self.scale * update

    def merged(self) -> nn.Linear:
        """The plain layer that does the same."""
        has_bias = self.bias is not None
        linear = nn.Linear(self.in_features, self.out_features, has_bias, device="meta")
        product = self.lora_b.double() @ self.lora_a.double()
        weight = (self.weight.double() + self.scale * product).to(self.weight.dtype)
        linear.weight, linear.bias = nn.Parameter(weight.detach()), self.bias
        return linear


def add_st_adapters(
    backbone: TimeSformer, bottleneck: int = 384, before: Before = "mlp"
) -> list[str]:
    """Put an ST-Adapter before the MLP of every block, or before attention and MLP.

    All that was there is frozen. Returns the names of what trains. Raises `ConfigError` for options
    that can't be, and where there are adapters already.
    """
    _check_plain(backbone)
    if bottleneck < 1 or before not in get_args(Before):
        raise ConfigError(
            f"ST-Adapters can't have a bottleneck of {bottleneck} before {before!r}; give 1 or "
            f"more, before one of {', '.join(get_args(Before))}."
        )
    backbone.requires_grad_(False)
    apart = backbone.config.attention == "space_only"
    like = backbone.cls_token
    for block in _blocks(backbone):
        for half in ("attention", "mlp") if before == "both" else ("mlp",):
            adapter = STAdapter(backbone.width, bottleneck, apart)
            block.adapters[half] = adapter.to(like.device, like.dtype)
    return _trained(backbone)


def add_lora(
    backbone: TimeSformer,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = ("qkv", "proj"),
) -> list[str]:
    """Put LoRA into the named linear layers of every block: `qkv` and `proj` of each attention
    (in space and in time), `fc1` and `fc2` of the MLP.

    All that was there is frozen. Returns the names of what trains. Raises `ConfigError` for options
    that can't be, and where there are adapters already.
    """
    _check_plain(backbone)
    unknown = [name for name in targets if name not in LINEAR_LAYERS]
    if rank < 1 or alpha <= 0 or unknown or not targets:
        raise ConfigError(
            f"LoRA can't have rank {rank}, alpha {alpha} and targets {list(targets)}; give a rank "
            f"of 1 or more, alpha above 0 and targets among {', '.join(LINEAR_LAYERS)}."
        )
    backbone.requires_grad_(False)
    for block in _blocks(backbone):
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if name in targets and isinstance(child, nn.Linear):
                    setattr(parent, name, LoraLinear(child, rank, alpha))
    return _trained(backbone)


def merge_lora(backbone: TimeSformer) -> None:
    """Turn every LoRA layer into the plain one that does the same, frozen as it was."""
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                merged = child.merged()
                merged.weight.requires_grad_(child.weight.requires_grad)
                setattr(parent, name, merged)


def has_adapters(backbone: nn.Module) -> bool:
    """Whether there is an ST-Adapter or a LoRA layer in it."""
    return any(isinstance(module, STAdapter | LoraLinear) for module in backbone.modules())


def _blocks(backbone: TimeSformer) -> list[Block]:
    return [block for block in backbone.blocks if isinstance(block, Block)]


def _trained(backbone: TimeSformer) -> list[str]:
    return [name for name, value in backbone.named_parameters() if value.requires_grad]


def _check_plain(backbone: TimeSformer) -> None:
    if has_adapters(backbone):
        raise ConfigError(
            "The backbone has adapters already; merge them (merge_lora), or load it anew."
        )
