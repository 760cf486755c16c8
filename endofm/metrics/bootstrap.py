"""Figures with confidence intervals: bootstrap over groups (videos, patients), not over frames.

A measure is a function of how often each sample counts, so that a resample is a vector of weights
and nothing is copied. Frames of one video resemble each other; drawing them one by one would give
intervals that are too narrow, so whole groups are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError

Weights = npt.NDArray[np.float64]
Measure = Callable[[Weights], Mapping[str, float]]
"""How often each of S samples counts -> figures by name; NaN where a figure is not defined."""


@dataclass(frozen=True)
class Value:
    """A figure and the percentile interval of its bootstrap."""

    value: float | None
    """`None` where it is not defined."""
    low: float | None = None
    high: float | None = None
    undefined_resamples: int = 0
    """Resamples in which it was not defined; the interval is over the others."""
    reason: str = ""
    """Why there is no value, or no interval."""

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int = 1000
    """Draws of as many groups as there are; 0: no intervals."""
    seed: int = 0
    """Of the draws."""
    level: float = 0.95
    """Share of the draws inside an interval."""

    def __post_init__(self) -> None:
        if self.resamples < 0 or not 0 < self.level < 1:
            raise ConfigError(
                f"A bootstrap can't have {self.resamples} resamples at level {self.level}; give 0 "
                "or more, and a level between 0 and 1."
            )


def draws(groups: Sequence[str], bootstrap: Bootstrap) -> Iterator[Weights]:
    """For each resample, how often each sample counts: as often as its group was drawn."""
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(bootstrap.seed)
    for _ in range(bootstrap.resamples):
        drawn = rng.integers(0, len(names), len(names))
        counts = np.bincount(drawn, minlength=len(names)).astype(np.float64)
        yield counts[inverse]


def estimate(
    measure: Measure,
    groups: Sequence[str],
    bootstrap: Bootstrap,
    reasons: Mapping[str, str] | None = None,
) -> dict[str, Value]:
    """Every figure of a measure with its interval; `groups` [S] names each sample's group.

    `reasons` says by name why a figure is not defined. With one group there is no interval.
    """
    figures = measure(np.ones(len(groups)))
    few = len(set(groups)) < 2
    drawn = [] if few else [measure(weights) for weights in draws(groups, bootstrap)]
    found = {}
    for name, figure in figures.items():
        if not np.isfinite(figure):
            why = (reasons or {}).get(name) or "it is not defined for these samples"
            found[name] = Value(None, reason=why)
            continue
        if not drawn:
            why = "one group has no interval" if few and bootstrap.resamples else ""
            found[name] = Value(float(figure), reason=why)
            continue
        values = np.array([resample[name] for resample in drawn])
        found[name] = interval(float(figure), values, bootstrap.level)
    return found


def interval(figure: float, values: npt.NDArray[np.float64], level: float) -> Value:
    """A figure with the percentile interval of its resampled values, NaN left out and counted."""
    defined = values[np.isfinite(values)]
    undefined = len(values) - len(defined)
    if not len(defined):
        return Value(figure, None, None, undefined, "no resample defines it")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Value(figure, float(low), float(high), undefined)
