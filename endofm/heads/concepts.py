"""Learnable concepts over a backbone's features and tokens, for VCL.

Qian et al.: Static and Dynamic Concepts for Self-supervised Video Representation Learning (ECCV
2022).

Shapes: B clips, N tokens, D width, K concepts, P length of an embedding.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError
from endofm.heads.projection import Standardize

ATTENTION_TEMPERATURE = 0.1


class ConceptHead(nn.Module):
    """Concepts of one kind, static or dynamic, and the way from features to them."""

    def __init__(self, width: int, num_concepts: int, length: int = 128) -> None:
        """Concepts start in random directions. Raises `ConfigError` for fewer than two."""
        super().__init__()
        if num_concepts < 2:
            raise ConfigError(f"{num_concepts} concepts tell nothing apart; give at least 2.")
        self.concepts = nn.Parameter(F.normalize(torch.randn(num_concepts, length), dim=-1))
        hidden = 2 * width
        self.mlp = nn.Sequential(
            Standardize(), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, length)
        )
        self.of_tokens = nn.Linear(width, length)
        for layer in (self.mlp[1], self.mlp[3], self.of_tokens):
            linear = cast(nn.Linear, layer)
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> embeddings of length 1 [B, P], and their cosines to the concepts [B, K]."""
        embedded = F.normalize(self.mlp(features), dim=-1)
        return embedded, embedded @ F.normalize(self.concepts, dim=-1).T

    def gather(self, tokens: Tensor) -> Tensor:
        """What each concept finds in a clip, by cross-attention: tokens [B, N, D] -> [B, K, P]."""
        values = self.of_tokens(tokens)
        queries = F.normalize(self.concepts, dim=-1)
        cosines = torch.einsum("kp,bnp->bkn", queries, F.normalize(values, dim=-1))
        found: Tensor = (cosines / ATTENTION_TEMPERATURE).softmax(dim=-1) @ values
        return found
