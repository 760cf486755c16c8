"""What uncertainty is worth: how accurate the rest is once the least certain samples are rejected.

Shapes: S samples, in any order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError
from endofm.metrics.bootstrap import Weights
from endofm.metrics.classification import Ranking

Floats = npt.NDArray[np.float64]
REJECTED = tuple(number / 20 for number in range(20))
"""Shares of the samples that are rejected in a curve: none to 95 %."""


@dataclass(frozen=True)
class RejectPoint:
    """The samples that are left when a share of them is rejected, the least certain first."""

    rejected: float
    """Share of the samples that is rejected."""
    accuracy: float
    """Share of the others that is told rightly."""


class RejectMeasure:
    """Figures of uncertainty as a function of how often each sample counts."""

    def __init__(self, uncertainty: Floats, is_right: npt.NDArray[np.bool_]) -> None:
        """Uncertainties [S] of samples that are told rightly or not; raises `ConfigError` for none,
        and for what is not finite.
        """
        if not len(uncertainty) or not np.isfinite(uncertainty).all():
            raise ConfigError(
                "Uncertainties are finite numbers, at least one; score samples that a network has "
                "judged."
            )
        self.ranking = Ranking(~is_right, uncertainty)  # the least certain first
        self.order = np.argsort(uncertainty, kind="stable")
        rising = uncertainty[self.order]
        self.starts = np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])
        self.is_right = is_right[self.order]

    def __call__(self, weights: Weights) -> dict[str, float]:
        """`error_auc`, the chance that a wrong sample is less certain than a right one (NaN without
        both), and `reject_accuracy`, the mean of the curve.
        """
        curve = [point.accuracy for point in self.curve(weights)]
        return {
            "error_auc": self.ranking.auc(weights),
            "reject_accuracy": float(np.mean(curve)),
        }

    def curve(self, weights: Weights) -> list[RejectPoint]:
        """Accuracy at every share of `REJECTED`; of equally certain samples a part is rejected in
        the mean of all ways to choose it.
        """
        counts = weights[self.order]
        kept = np.r_[0.0, np.cumsum(np.add.reduceat(counts, self.starts))]
        right = np.r_[0.0, np.cumsum(np.add.reduceat(counts * self.is_right, self.starts))]
        left = (1 - np.array(REJECTED)) * kept[-1]
        accuracy = np.interp(left, kept, right) / left
        return [
            RejectPoint(share, float(value))
            for share, value in zip(REJECTED, accuracy, strict=True)
        ]
