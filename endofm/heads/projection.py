"""DINO's projection head: from a clip's feature to scores over prototypes.

Caron et al.: Emerging Properties in Self-Supervised Vision Transformers (ICCV 2021), with the
published parameter names.

Shapes: B clips, D width, K prototypes.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from endofm.errors import ConfigError


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have the length `weight_g`, fixed at 1."""

    def __init__(self, width: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(num_prototypes, 1), requires_grad=False)
        self.weight_v = nn.Parameter(torch.empty(num_prototypes, width))
        nn.init.uniform_(self.weight_v, -(width**-0.5), width**-0.5)

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, K]
        """With features of length 1: the cosine to every prototype."""
        directions = self.weight_v / self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(features, self.weight_g * directions)


class ProjectionHead(nn.Module):
    """MLP, L2 norm, then the similarity to every prototype; by default in Endo-FM's sizes."""

    def __init__(
        self,
        width: int,
        num_prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        num_layers: int = 3,
    ) -> None:
        super().__init__()
        if min(width, num_prototypes, hidden, bottleneck, num_layers) < 1:
            raise ConfigError(
                f"A projection head can't have width {width}, {num_prototypes} prototypes, "
                f"hidden {hidden}, bottleneck {bottleneck} and {num_layers} layers; "
                "each must be at least 1."
            )
        sizes = [width, *[hidden] * (num_layers - 1), bottleneck]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = Prototypes(bottleneck, num_prototypes)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, K]
        """Scores before any temperature, within [-1, 1] in float32."""
        scores: Tensor = self.last_layer(F.normalize(self.mlp(features), dim=-1))
        return scores
