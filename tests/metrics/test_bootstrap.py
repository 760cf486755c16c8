import numpy as np
import pytest

from endofm.errors import ConfigError
from endofm.metrics.bootstrap import Bootstrap, Value, draws, estimate


def mean_of(values):
    values = np.array(values, float)
    return lambda weights: {"mean": weights @ values / weights.sum()}


def test_whole_groups_are_drawn_as_many_as_there_are():
    groups = ["a", "a", "b", "c", "c", "c"]
    seen = list(draws(groups, Bootstrap(50)))
    for weights in seen:
        assert weights[0] == weights[1] and weights[3] == weights[4] == weights[5]
        assert weights[0] + weights[2] + weights[3] == 3
    assert len({tuple(weights) for weights in seen}) > 5
    again = list(draws(groups, Bootstrap(50)))
    assert all(np.array_equal(one, two) for one, two in zip(seen, again, strict=True))
    other = list(draws(groups, Bootstrap(50, seed=1)))
    assert any(not np.array_equal(one, two) for one, two in zip(seen, other, strict=True))


def test_the_interval_has_the_width_of_the_mean_s_error_over_groups():
    rng = np.random.default_rng(0)
    of_groups = rng.normal(0, 1, 200)
    values, groups = np.repeat(of_groups, 5), [f"{n // 5}" for n in range(1000)]
    value = estimate(mean_of(values), groups, Bootstrap(2000))["mean"]
    assert value.value == pytest.approx(of_groups.mean())
    assert (value.high - value.low) == pytest.approx(2 * 1.96 * of_groups.std() / 200**0.5, rel=0.1)
    # Frame by frame it would be narrower by the root of 5, and wrong.
    alone = estimate(mean_of(values), [str(n) for n in range(1000)], Bootstrap(500))["mean"]
    assert (alone.high - alone.low) < 0.6 * (value.high - value.low)


def test_undefined_figures_keep_their_reason_and_undefined_resamples_are_counted():
    def measure(weights):
        first = 1.0 if weights[0] else np.nan
        return {"never": np.nan, "some": first, "always": float(weights[0])}

    found = estimate(measure, ["a", "b", "c"], Bootstrap(300), {"never": "there is none"})
    assert found["never"] == Value(None, reason="there is none")
    some = found["some"]
    assert (some.low, some.high) == (1, 1)
    assert some.undefined_resamples == pytest.approx(300 * (2 / 3) ** 3, abs=30)
    assert found["always"].undefined_resamples == 0 and found["always"].low == 0


def test_one_group_or_no_resample_gives_no_interval():
    value = estimate(mean_of([0, 1]), ["a", "a"], Bootstrap(100))["mean"]
    assert (value.value, value.low, value.high) == (0.5, None, None) and "one group" in value.reason
    value = estimate(mean_of([0, 1]), ["a", "b"], Bootstrap(0))["mean"]
    assert value == Value(0.5)


@pytest.mark.parametrize("changes", [{"resamples": -1}, {"level": 1.0}, {"level": 0.0}])
def test_bootstraps_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError):
        Bootstrap(**changes)
