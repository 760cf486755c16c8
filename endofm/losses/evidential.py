"""Evidential classification: scores as evidence for a Dirichlet distribution over the classes.

Evidence e = softplus(scores), alpha = e + prior, S its sum: the probabilities are alpha / S and the
uncertainty is u = K prior / S, which is 1 where there is no evidence.

Shapes: B clips, V clips of one video, K classes.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError

Form = Literal["relaxed", "squared", "log", "digamma"]
RELAXED_PRIOR = 0.8
ANNEALING_EPOCHS = 10
"""Over so many epochs the divergence from the uniform Dirichlet comes in."""


class EvidentialLoss(nn.Module):
    """A loss of scores [B, K], and how alphas are read from them.

    `relaxed`: the squared error of P_k = (e_k + l2) / (e_k + l1 (sum e - e_k) + l2 K), with
    l1 = `others` and l2 = `prior` (STFM, arXiv 2606.17437); with l1 = 1 that is alpha / S. The
    classic forms have the prior 1 (Sensoy et al., NeurIPS 2018): `squared` is equation 5, with the
    variance, `digamma` equation 4 and `log` equation 3. To them `divergence_weight` times the
    divergence of what speaks for wrong classes from no evidence at all is added.
    """

    def __init__(self, form: Form = "relaxed", others: float = 1.0) -> None:
        """Raises `ConfigError` for an unknown form, and for `others` where it has no part."""
        super().__init__()
        if form not in get_args(Form):
            raise ConfigError(
                f"form {form!r} is unknown; choose one of {', '.join(get_args(Form))}."
            )
        if others <= 0 or (others != 1 and form != "relaxed"):
            raise ConfigError(
                f"others is {others}, the weight of the other classes' evidence in the relaxed "
                "form; it is above 0 there, and 1 in any other form."
            )
        self.form, self.others = form, others
        self.prior = RELAXED_PRIOR if form == "relaxed" else 1.0
        self.divergence_weight = 0.0

    def anneal(self, epoch: float) -> None:
        """Set the divergence's weight of a moment of training: it rises from 0 to 1."""
        self.divergence_weight = min(1.0, epoch / ANNEALING_EPOCHS)

    def alphas(self, scores: Tensor) -> Tensor:  # [..., K] -> [..., K]
        """Evidence and prior."""
        return F.softplus(scores) + self.prior

    def probabilities(self, alphas: Tensor) -> Tensor:  # [..., K] -> [..., K]
        """The mean of the distribution."""
        return alphas / alphas.sum(dim=-1, keepdim=True)

    def uncertainty(self, alphas: Tensor) -> Tensor:  # [..., K] -> [...]
        """From 1 without evidence towards 0."""
        return alphas.shape[-1] * self.prior / alphas.sum(dim=-1)

    def forward(self, scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean over clips, [B, K] and int64 [B] -> []; `weights` [K] weigh by the true class,
        as in a weighted cross-entropy.
        """
        losses = self.each(self.alphas(scores), truth)
        if weights is None:
            return losses.mean()
        of_clips = weights[truth]
        return (losses * of_clips).sum() / of_clips.sum()

    def each(self, alphas: Tensor, truth: Tensor) -> Tensor:  # [B, K], int64 [B] -> [B]
        """Every clip's loss."""
        is_true = F.one_hot(truth, alphas.shape[-1]).to(alphas.dtype)
        total = alphas.sum(dim=-1, keepdim=True)
        if self.form == "relaxed":
            rest = total - alphas  # evidence for the others, and their part of the prior
            prior = (alphas.shape[-1] - 1) * self.prior
            told = alphas / (alphas + self.others * (rest - prior) + prior)
            return (is_true - told).square().sum(dim=-1)
        if self.form == "squared":
            told = alphas / total
            of_error = (is_true - told).square()
            losses = (of_error + told * (1 - told) / (total + 1)).sum(dim=-1)
        else:
            measure = torch.log if self.form == "log" else torch.digamma
            losses = (is_true * (measure(total) - measure(alphas))).sum(dim=-1)
        if not self.divergence_weight:
            return losses
        misleading = is_true + (1 - is_true) * alphas
        return losses + self.divergence_weight * divergence_from_uniform(misleading)


def divergence_from_uniform(alphas: Tensor) -> Tensor:  # [..., K] -> [...]
    """Kullback-Leibler divergence of Dir(alphas) from Dir(1, ..., 1), in nats."""
    total = alphas.sum(dim=-1)
    ones = torch.full_like(total, alphas.shape[-1])
    inner = (alphas - 1) * (torch.digamma(alphas) - torch.digamma(total)[..., None])
    normalizers = torch.lgamma(total) - torch.lgamma(ones) - torch.lgamma(alphas).sum(dim=-1)
    return normalizers + inner.sum(dim=-1)


def fuse(alphas: Tensor) -> Tensor:  # [V, K] -> [K]
    """The alphas of a video: the sum of those of its clips, priors and all (STFM).

    So the uncertainty of a video of V clips is at most 1 / V; compare videos of equally many clips.
    """
    return alphas.sum(dim=0)
