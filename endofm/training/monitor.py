"""Collapse watch: numbers that show whether features still tell clips apart, and plain warnings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ROWS = 64
"""Fewer features than this say nothing about rank or spread."""


@dataclass(frozen=True)
class Health:
    """State of the teacher over the last few hundred clips.

    `teacher_entropy` and `marginal_entropy` are shares of log K: of one clip's target on average,
    and of the average target. `feature_std` is the standard deviation of a feature over clips after
    L2 normalisation, times sqrt(D): near 1 when features fill the sphere, 0 when all clips look the
    same. `rankme` is the effective rank of the features (Garrido et al., ICML 2023), between 1 and
    D.
    """

    teacher_entropy: float
    marginal_entropy: float
    feature_std: float
    rankme: float

    def warnings(self) -> list[str]:
        """One plain sentence for every sign of collapse."""
        found = []
        if self.feature_std < 0.02 or self.rankme < 1.5:
            found.append(
                f"The features of different clips are nearly the same (spread "
                f"{self.feature_std:.3f}, "
                f"effective rank {self.rankme:.1f}): the run has collapsed or is about to; lower "
                f"the "
                "learning rate, lengthen the warm-up or raise optim.batch_size."
            )
        if self.teacher_entropy > 0.995:
            found.append(
                f"The teacher's targets are uniform ({self.teacher_entropy:.3f} of the largest "
                "entropy), so nothing is learned; lower objective.teacher_temperature."
            )
        if self.marginal_entropy < 0.05:
            found.append(
                f"A single prototype takes nearly all clips ({self.marginal_entropy:.3f} of the "
                f"largest "
                "entropy); use objective.centering sinkhorn or raise objective.teacher_temperature."
            )
        return found


def rankme(features: Tensor) -> float:
    """Effective rank of features [N, D]: exp of the entropy of the normalised singular values.

    The singular values are roots of the eigenvalues of the smaller product of the features with
    themselves: exact to 1e-8 of the largest, far below the 1e-7 that RankMe adds.
    """
    rows = features.double()
    product = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(product).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(1e-30) + 1e-7
    return math.exp(float(-(shares * shares.log()).sum()))


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy over the last dimension, in nats."""
    return -(probabilities * probabilities.clamp_min(1e-30).log()).sum(-1)


class Watched(Protocol):
    """Teacher features [N, D], the mean entropy [] of its targets, its mean target [K]."""

    @property
    def features(self) -> Tensor: ...  # noqa: D102
    @property
    def target_entropy(self) -> Tensor: ...  # noqa: D102
    @property
    def target_mean(self) -> Tensor: ...  # noqa: D102


class Monitor:
    """Remembers the teacher's last features on the device; nothing is read back until asked."""

    def __init__(self, num_prototypes: int, num_rows: int = 512) -> None:
        """Keep up to `num_rows` features of the teacher."""
        self.num_rows = num_rows
        self.log_k = math.log(num_prototypes)
        self.features: list[Tensor] = []
        self.targets: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, outputs: Sequence[Watched]) -> None:
        """Take a step's outputs; they stay on the device."""
        for output in outputs:
            self.features.append(output.features.detach().float())
            self.targets.append((output.target_entropy.detach(), output.target_mean.detach()))
        while sum(map(len, self.features[1:])) >= self.num_rows:
            self.features.pop(0)
            self.targets.pop(0)

    @torch.no_grad()
    def health(self) -> Health | None:
        """The numbers over what is remembered; `None` while that is too little."""
        rows = torch.cat(self.features) if self.features else torch.zeros(0, 1)
        if len(rows) < MIN_ROWS:
            return None
        unit = F.normalize(rows, dim=-1)
        entropies = torch.stack([one for one, _ in self.targets])
        marginal = torch.stack([mean for _, mean in self.targets]).mean(0)
        return Health(
            teacher_entropy=float(entropies.mean()) / self.log_k,
            marginal_entropy=float(entropy(marginal)) / self.log_k,
            feature_std=float(unit.std(dim=0).mean()) * math.sqrt(rows.shape[1]),
            rankme=rankme(unit),
        )
