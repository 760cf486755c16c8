"""Whether one model is better than another on the same test samples, group by group.

Both were asked about the same samples, so the groups are drawn together (paired bootstrap), and for
the test the answers of the two are swapped in whole groups (a permutation test): if the models were
alike, swapping would not matter. Frames of a video resemble each other, so they are never swapped
one by one.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from endofm.metrics.bootstrap import Bootstrap, Measure, Weights, draws, interval


@dataclass(frozen=True)
class Difference:
    """A figure of the second model less that of the first."""

    value: float | None
    """`None` where it is not defined for one of them."""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Share of swaps that give a difference at least as large, either way."""
    num_groups: int = 0
    is_exact: bool = False
    """Whether all swaps were tried, rather than as many as the bootstrap has resamples."""


def paired(
    measures: Sequence[Measure], groups: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Difference]:
    """The differences of the figures that all measures give, means over the measures (seeds).

    A measure takes 2 S weights: first those of the first model's answers about S samples, then
    those of the second's about the same. `groups` [S] are the samples' groups.
    """
    size, num_groups = len(groups), len(set(groups))
    one, none = np.ones(size), np.zeros(size)
    first, second = _means(measures, one, none), _means(measures, none, one)
    drawn = [_difference(measures, weights) for weights in draws(groups, bootstrap)]
    is_exact = 2**num_groups <= max(bootstrap.resamples, 2)
    swapped = [_swapped_difference(measures, swap) for swap in _swaps(groups, bootstrap, is_exact)]
    found = {}
    for name, value in first.items():
        difference = second[name] - value
        if not np.isfinite(difference):
            found[name] = Difference(None, num_groups=num_groups)
            continue
        low = high = p = None
        if num_groups > 1 and bootstrap.resamples:
            bounds = interval(difference, np.array([one[name] for one in drawn]), bootstrap.level)
            low, high = bounds.low, bounds.high
            others = np.array([one[name] for one in swapped])
            others = others[np.isfinite(others)]
            as_large = int((np.abs(others) >= abs(difference) - 1e-12).sum())
            # Of drawn swaps the true one, no swap at all, counts as one more.
            p = as_large / len(others) if is_exact else (as_large + 1) / (len(others) + 1)
        found[name] = Difference(float(difference), low, high, p, num_groups, is_exact)
    return found


def _swaps(groups: Sequence[str], bootstrap: Bootstrap, is_exact: bool) -> Iterator[Weights]:
    """For each swap, 1 for samples whose answers change places, else 0; all swaps if `is_exact`."""
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    if is_exact:
        for pattern in itertools.product((0.0, 1.0), repeat=len(names)):
            yield np.array(pattern)[inverse]
        return
    rng = np.random.default_rng(bootstrap.seed + 1)
    for _ in range(bootstrap.resamples):
        yield rng.integers(0, 2, len(names)).astype(np.float64)[inverse]


def _difference(measures: Sequence[Measure], weights: Weights) -> dict[str, float]:
    none = np.zeros(len(weights))
    first, second = _means(measures, weights, none), _means(measures, none, weights)
    return {name: second[name] - first[name] for name in first}


def _swapped_difference(measures: Sequence[Measure], swap: Weights) -> dict[str, float]:
    first, second = _means(measures, 1 - swap, swap), _means(measures, swap, 1 - swap)
    return {name: second[name] - first[name] for name in first}


def _means(measures: Sequence[Measure], first: Weights, second: Weights) -> dict[str, float]:
    """Every figure's mean over the measures; NaN where one of them doesn't define it."""
    weights = np.concatenate([first, second])
    each = [measure(weights) for measure in measures]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}
