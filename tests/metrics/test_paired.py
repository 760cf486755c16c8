import numpy as np
import pytest

from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.paired import paired


def mean_of(first, second):
    values = np.concatenate([first, second]).astype(float)

    def measure(weights):
        return {"mean": float(weights @ values / weights.sum()) if weights.sum() else np.nan}

    return measure


def test_all_swaps_of_few_groups_are_tried():
    # Three groups, the second model better in each by 1: of 8 swaps two give +1 or -1.
    measure = mean_of([1, 2, 3], [2, 3, 4])
    told = paired([measure], list("abc"), Bootstrap(100))["mean"]
    assert (told.value, told.low, told.high) == pytest.approx((1, 1, 1))
    assert told.is_exact and told.p == 2 / 8 and told.num_groups == 3


def test_the_difference_is_worked_out_by_hand():
    measure = mean_of([0, 0, 3, 1], [4, 0, 1, 1])  # differences 4, 0, -2, 0
    told = paired([measure], list("abcd"), Bootstrap(500))["mean"]
    assert told.value == 0.5
    # Swaps: |±4 ± 2| / 4 in equal shares: 6/4, 2/4, 2/4, 6/4: all at least 2/4.
    assert told.p == 1
    assert told.low == pytest.approx(-1.5, abs=0.3) and told.high == pytest.approx(3, abs=0.5)


def test_groups_are_swapped_and_drawn_whole():
    rng = np.random.default_rng(0)
    of_group = np.repeat(rng.normal(0.4, 1, 12), 20)
    first = rng.normal(0, 0.1, 240)
    groups = [str(n // 20) for n in range(240)]
    whole = paired([mean_of(first, first + of_group)], groups, Bootstrap(400))["mean"]
    alone = paired([mean_of(first, first + of_group)], list(map(str, range(240))), Bootstrap(400))
    assert alone["mean"].p < 0.01 < whole.p
    assert whole.high - whole.low > 2 * (alone["mean"].high - alone["mean"].low)


def test_equal_models_differ_in_nothing():
    told = paired([mean_of([1, 2, 3], [1, 2, 3])], list("abc"), Bootstrap(50))["mean"]
    assert (told.value, told.low, told.high, told.p) == (0, 0, 0, 1)


def test_chance_rarely_looks_like_a_difference():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        first, second = rng.normal(size=(2, 6))
        found.append(paired([mean_of(first, second)], list("abcdef"), Bootstrap(64))["mean"].p)
    assert 0 < np.mean(np.array(found) < 0.1) < 0.2


def test_seeds_are_averaged():
    measures = [mean_of([1, 1], [2, 2]), mean_of([1, 1], [5, 3])]
    assert paired(measures, ["a", "b"], Bootstrap(10))["mean"].value == pytest.approx((1 + 3) / 2)


def test_what_one_does_not_define_has_no_difference_and_one_group_no_test():
    def nothing(weights):
        return {"mean": np.nan}

    assert paired([nothing], ["a", "b"], Bootstrap(10))["mean"].value is None
    told = paired([mean_of([1, 1], [2, 2])], ["a", "a"], Bootstrap(10))["mean"]
    assert (told.value, told.low, told.p) == (1, None, None)
