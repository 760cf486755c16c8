"""The reject curve and what uncertainty says of mistakes, by hand."""

import numpy as np
import pytest

from endofm.errors import ConfigError
from endofm.metrics.evidence import REJECTED, RejectMeasure


def curve_of(uncertainty, is_right, weights=None):
    measure = RejectMeasure(np.array(uncertainty, float), np.array(is_right, bool))
    counts = np.ones(len(uncertainty)) if weights is None else np.array(weights, float)
    points = measure.curve(counts)
    return {point.rejected: point.accuracy for point in points}, measure(counts)


def test_rejecting_the_least_certain_first_leaves_the_right_ones():
    """Five samples, the two least certain wrong: 3/5, then 3/4 without one, 1 without two."""
    curve, figures = curve_of([0.9, 0.1, 0.8, 0.3, 0.2], [0, 1, 0, 1, 1])
    assert curve[0.0] == pytest.approx(3 / 5)
    assert curve[0.2] == pytest.approx(3 / 4)
    assert curve[0.4] == curve[0.8] == pytest.approx(1)
    assert curve[0.1] == pytest.approx(3 / 4.5)  # half of the first is gone
    assert figures["error_auc"] == 1.0
    assert figures["reject_accuracy"] == pytest.approx(np.mean(list(curve.values())))


def test_equally_certain_samples_are_rejected_alike_in_any_order():
    for is_right in ([1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]):
        curve, figures = curve_of([0.5] * 4, is_right)
        assert list(curve.values()) == pytest.approx([0.5] * len(REJECTED))
        assert figures["error_auc"] == 0.5


def test_certainty_in_the_wrong_makes_the_curve_fall():
    curve, figures = curve_of([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    assert curve[0.0] == 0.5 and curve[0.5] == 0.0 and figures["error_auc"] == 0.0


def test_weights_count_samples_as_often_as_they_were_drawn():
    twice, figures = curve_of([0.9, 0.1, 0.5], [0, 1, 1], weights=[2, 0, 1])
    written, expected = curve_of([0.9, 0.9, 0.5], [0, 0, 1])
    assert twice == pytest.approx(written) and figures == pytest.approx(expected)


def test_without_a_mistake_nothing_is_said_of_mistakes():
    _, figures = curve_of([0.3, 0.2], [1, 1])
    assert np.isnan(figures["error_auc"]) and figures["reject_accuracy"] == 1.0


@pytest.mark.parametrize("uncertainty", [[], [0.1, np.nan]])
def test_what_is_no_uncertainty_is_refused(uncertainty):
    with pytest.raises(ConfigError, match="finite numbers"):
        RejectMeasure(np.array(uncertainty, float), np.ones(len(uncertainty), bool))
