"""Classification heads: from a backbone's tokens to one score a class.

Shapes: B clips, N patch tokens, D width, K classes.
"""

from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError

Pool = Literal["class_token", "mean"]


class LinearHead(nn.Module):
    """One linear layer on the class token, or on the mean of the patch tokens.

    `pool` holds nothing to learn, so that a frozen backbone's pooled features can be kept and only
    `classify` trained on them.
    """

    def __init__(
        self, width: int, num_classes: int, pool: Pool = "class_token", dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check(width, num_classes, dropout)
        if pool not in get_args(Pool):
            raise ConfigError(
                f"pool {pool!r} is unknown; choose one of {', '.join(get_args(Pool))}."
            )
        self.pooling = pool
        self.dropout = nn.Dropout(dropout)
        self.linear = _classifier(width, num_classes)

    @property
    def num_classes(self) -> int:
        """Classes (K)."""
        return self.linear.out_features

    def forward(self, tokens: Tensor) -> Tensor:  # [B, 1 + N, D] -> [B, K]
        """Scores before the softmax, of all tokens with the class token first."""
        return self.classify(self.pool(tokens))

    def pool(self, tokens: Tensor) -> Tensor:  # [B, 1 + N, D] -> [B, D]
        """The feature that is classified."""
        return tokens[:, 0] if self.pooling == "class_token" else tokens[:, 1:].mean(dim=1)

    def classify(self, features: Tensor) -> Tensor:  # [B, D] -> [B, K]
        """Scores of pooled features."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits


class AttentiveHead(nn.Module):
    """A learned query gathers from all tokens, then one linear layer.

    The attentive probe of CAE (Chen et al., 2022) and V-JEPA (Bardes et al., 2024) without the MLP
    that the latter adds.
    """

    def __init__(
        self, width: int, num_classes: int, num_heads: int | None = None, dropout: float = 0.0
    ) -> None:
        """`num_heads` shares the width; by default one for every 64 channels that divide it."""
        super().__init__()
        _check(width, num_classes, dropout)
        self.num_heads = num_heads or (width // 64 if width % 64 == 0 else 1)
        if self.num_heads < 1 or width % self.num_heads:
            raise ConfigError(
                f"width {width} can't be shared by {num_heads} heads; choose num_heads among the "
                f"divisors of {width}."
            )
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.feature_norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.linear = _classifier(width, num_classes)
        for layer in (self.key_value, self.project):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.query, std=0.02)

    @property
    def num_classes(self) -> int:
        """Classes (K)."""
        return self.linear.out_features

    def forward(self, tokens: Tensor) -> Tensor:  # [B, 1 + N, D] -> [B, K]
        """Scores before the softmax, of all tokens with the class token first."""
        heads = self.num_heads
        key, value = rearrange(
            self.key_value(self.norm(tokens)), "b n (two h d) -> two b h n d", two=2, h=heads
        )
        query = rearrange(self.query, "1 1 (h d) -> 1 h 1 d", h=heads).expand(
            len(tokens), -1, -1, -1
        )
        gathered = F.scaled_dot_product_attention(query, key, value)
        feature = self.project(rearrange(gathered, "b h 1 d -> b (h d)"))
        logits: Tensor = self.linear(self.dropout(self.feature_norm(feature)))
        return logits


def _check(width: int, num_classes: int, dropout: float) -> None:
    if width < 1 or num_classes < 1 or not 0 <= dropout < 1:
        raise ConfigError(
            f"A classification head can't have width {width}, {num_classes} classes and dropout "
            f"{dropout}; give at least 1 class and a dropout from 0 to below 1."
        )


def _classifier(width: int, num_classes: int) -> nn.Linear:
    """Starts as in DINO's linear evaluation: small weights, no bias."""
    linear = nn.Linear(width, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear
