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
from endofm.processes import mean_over_processes


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


class Standardize(nn.Module):
    """Every feature to mean 0 and deviation 1 over the rows of a batch, on all processes together.

    What the batch norm of DINO's head does in its first layer, without weights or running averages:
    a small untrained network gives all clips nearly the same feature, and targets that tell them
    apart from the first step on need that common part taken away. With it goes the gradient of the
    backbone's last norm.
    """

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, D]
        """The same in training and evaluation; every process gives equally many rows."""
        features = features.float()
        centered = features - mean_over_processes(features.mean(dim=0))
        variance = mean_over_processes(centered.square().mean(dim=0))
        standard: Tensor = centered * torch.rsqrt(variance + 1e-5)
        return standard


class ProjectionHead(nn.Module):
    """MLP, L2 norm, then the similarity to every prototype; by default in Endo-FM's sizes.

    `standardize` puts `Standardize` before the MLP, and starts the linear layers with a deviation
    of 1 / sqrt(inputs), so that differences between clips pass undiminished.
    """

    def __init__(
        self,
        width: int,
        num_prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        num_layers: int = 3,
        standardize: bool = False,
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
        self.standardize = Standardize() if standardize else nn.Identity()
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = Prototypes(bottleneck, num_prototypes)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                std = layer.in_features**-0.5 if standardize else 0.02
                nn.init.trunc_normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, K]
        """Scores before any temperature, within [-1, 1] in float32."""
        embedded = self.mlp(self.standardize(features))
        scores: Tensor = self.last_layer(F.normalize(embedded, dim=-1))
        return scores
