import pytest

from endofm.report.html import Bold
from endofm.report.results import results_table

LABEL, METHOD = "polyp", "k-NN"


def scores(features, *values, first_seed=0, label=LABEL, method=METHOD):
    return [
        {"features": features, "label": label, "method": method, "seed": seed, "score": value}
        for seed, value in enumerate(values, first_seed)
    ]


def sentence(ours, theirs, *more, chance=None):
    rows = scores("pretrained", *ours) + scores("untrained", *theirs) + list(more)
    return results_table(rows, chance).note


def test_a_table_has_mean_and_spread_and_the_best_in_bold():
    rows = scores("pretrained", 0.8, 0.9) + scores("untrained", 0.6, 0.5)
    rows += scores("color statistics", 0.7) + scores("pretrained", 0.3, label="scene")
    table = results_table(rows, {"polyp": 0.5, "scene": 1 / 6})
    assert table.columns == ["features", "polyp, k-NN", "scene, k-NN"]
    assert table.rows == [
        ["pretrained", "85.0 (80.0 to 90.0)", "30.0"],
        ["untrained", "55.0 (50.0 to 60.0)", "–"],
        ["color statistics", "70.0", "–"],
        ["chance", "50.0", "16.7"],
    ]
    bold = [[isinstance(cell, Bold) for cell in row] for row in table.rows]
    assert bold == [[False, True, True], *[[False] * 3] * 3]


def test_a_clear_win_is_called_one():
    words = sentence([0.8, 0.9], [0.6, 0.7])
    assert words == (
        "polyp, k-NN: pretrained beats untrained by 20.0 points in the mean and in all 2 seeds."
    )


def test_the_sentence_turns_when_the_numbers_do():
    words = sentence([0.6, 0.7], [0.8, 0.9])
    assert words == (
        "polyp, k-NN: pretrained does not beat untrained; its mean is 20.0 points lower, and it is "
        "ahead in none of 2 seeds."
    )


def test_a_seed_that_loses_is_not_hidden_by_the_mean():
    assert "beats untrained by 5.0 points in the mean, but in only 1 of 2 seeds." in sentence(
        [0.9, 0.6], [0.7, 0.7]
    )
    assert "its mean is 5.0 points lower, and it is ahead in 1 of 2 seeds." in sentence(
        [0.8, 0.5], [0.7, 0.7]
    )


def test_equal_means_are_no_win():
    assert "does not beat untrained; their means are equal" in sentence([0.7, 0.8], [0.8, 0.7])


def test_a_single_seed_is_called_weak_evidence():
    assert "; it is one seed only, so chance may decide." in sentence([0.8], [0.6])


def test_only_seeds_that_both_have_are_compared():
    rows = scores("pretrained", 0.8, 0.8, 0.8) + scores("untrained", 0.6, 0.9, first_seed=1)
    assert "but in only 1 of 2 seeds that both have." in results_table(rows).note
    apart = scores("pretrained", 0.8) + scores("untrained", 0.6, first_seed=5)
    assert "no seed is in both" in results_table(apart).note


def test_a_better_baseline_and_chance_are_mentioned():
    colors = scores("color statistics", 0.9)
    assert "But color statistics score higher (90.0)." in sentence([0.8], [0.6], *colors)
    assert "color" not in sentence([0.95], [0.6], *colors)
    assert "not above chance (50.0)." in sentence([0.5], [0.4], chance={"polyp": 0.5})
    assert "chance (" not in sentence([0.6], [0.4], chance={"polyp": 0.5})


def test_without_a_baseline_nothing_is_claimed():
    assert results_table(scores("pretrained", 0.8)).note == (
        "polyp, k-NN: there are no untrained features, so nothing is compared."
    )


def test_a_score_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="seed 0 comes twice"):
        results_table(scores("pretrained", 0.8) + scores("pretrained", 0.9))
