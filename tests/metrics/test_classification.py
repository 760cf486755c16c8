import json
import random

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from endofm.errors import ConfigError
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.classification import (
    Ranking,
    Sample,
    calibration_error,
    cohens_kappa,
    measure_of,
    score_classification,
)

NONE = Bootstrap(0)


def binary(truths, scores, groups=None):
    groups = groups or [f"g{number}" for number in range(len(truths))]
    return [
        Sample(f"v{number:03}", group, truth, (1 - score, score))
        for number, (truth, score, group) in enumerate(zip(truths, scores, groups, strict=True))
    ]


def values(samples, classes=("no", "yes"), **options):
    found = score_classification(samples, classes, bootstrap=NONE, **options).values
    return {name: value.value for name, value in found.items()}


# By hand

EIGHT = binary([1, 1, 1, 1, 0, 0, 0, 0], [0.9, 0.8, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1])
"""Of the four positives three are found; one negative is a false alarm."""


def test_two_classes_are_worked_out_by_hand():
    found = values(EIGHT, positive="yes")
    assert found["accuracy"] == found["balanced_accuracy"] == 6 / 8
    assert (found["precision"], found["recall"], found["f1"]) == (3 / 4, 3 / 4, 3 / 4)
    assert found["auc"] == pytest.approx(13 / 16)  # 4 + 4 + 3 + 2 of 16 pairs in order
    assert found["macro_auc"] == pytest.approx(13 / 16)
    confusion = score_classification(EIGHT, ("no", "yes"), bootstrap=NONE).confusion
    assert confusion.tolist() == [[3, 1], [1, 3]]


def test_kappa_is_agreement_beyond_chance_by_hand():
    # EIGHT: 6 of 8 agree, by chance (4 x 4 + 4 x 4) / 64 = 1 / 2 would.
    assert values(EIGHT)["kappa"] == pytest.approx((6 / 8 - 1 / 2) / (1 / 2))
    # Of 50 each: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no, the textbook's 0.4.
    assert cohens_kappa(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)
    assert cohens_kappa(np.eye(5)) == 1
    assert cohens_kappa(np.array([[0.0, 3.0], [3.0, 0.0]])) == -1
    one_class = score_classification(binary([1, 1], [0.9, 0.8]), ("no", "yes"), bootstrap=NONE)
    assert one_class.values["kappa"].value is None
    assert "of one class" in one_class.values["kappa"].reason


def test_kappa_has_an_interval_over_groups():
    found = score_classification(EIGHT, ("no", "yes"), bootstrap=Bootstrap(200)).values["kappa"]
    assert -1 <= found.low < found.value < found.high <= 1


def test_the_positive_class_is_the_one_that_is_named():
    samples = binary([1, 1, 1, 0], [0.9, 0.4, 0.4, 0.1])
    yes, no = values(samples, positive="yes"), values(samples, positive="no")
    assert (yes["precision"], yes["recall"], yes["f1"]) == (1, 1 / 3, 0.5)
    assert (no["precision"], no["recall"], no["f1"]) == (1 / 3, 1, 0.5)
    assert yes["auc"] == no["auc"] == 1


def test_ties_count_half():
    assert values(binary([1, 0], [0.5, 0.5]), positive="yes")["auc"] == 0.5
    assert values(binary([1, 1, 0], [0.9, 0.5, 0.5]), positive="yes")["auc"] == 0.75


def test_the_calibration_error_is_worked_out_by_hand():
    # Bins of 1/15: 0.95 and 0.97 share one (right, wrong), 0.6 is alone (right).
    confidence, is_right = np.array([0.95, 0.97, 0.6]), np.array([True, False, True])
    expected = 2 / 3 * abs(0.5 - 0.96) + 1 / 3 * abs(1 - 0.6)
    assert calibration_error(confidence, is_right, np.ones(3)) == pytest.approx(expected)
    assert calibration_error(np.ones(4), np.ones(4, bool), np.ones(4)) == 0


def test_average_precision_is_worked_out_by_hand():
    ranking = Ranking(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    assert ranking.average_precision(np.ones(3)) == pytest.approx((1 + 2 / 3) / 2)
    tied = Ranking(np.array([True, False]), np.array([0.5, 0.5]))
    assert tied.average_precision(np.ones(2)) == 0.5


# Against scikit-learn


def random_samples(num, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, num)
    scores = rng.dirichlet(np.ones(num_classes), num)
    scores[np.arange(num), truth] += 0.2
    scores = (scores / scores.sum(1, keepdims=True)).round(2)  # ties
    scores[:, 0] += 1 - scores.sum(1)
    scores = scores.clip(0, 1)
    return truth, scores, rng.integers(0, 4, num).astype(float)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_many_classes_equal_scikit_learn(num_classes, weighted):
    truth, scores, weights = random_samples(300, num_classes)
    weights = weights if weighted else np.ones(300)
    classes = [f"c{number}" for number in range(num_classes)]
    samples = [Sample(f"{n:03}", "g", int(truth[n]), tuple(scores[n])) for n in range(300)]
    found = measure_of(samples, classes)(weights)
    predicted = scores.argmax(1)
    options = {"sample_weight": weights}
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(truth, predicted, **options),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(truth, predicted, **options),
        "kappa": sklearn_metrics.cohen_kappa_score(truth, predicted, **options),
        "macro_auc": np.mean(
            [
                sklearn_metrics.roc_auc_score(truth == k, scores[:, k], **options)
                for k in range(num_classes)
            ]
        ),
    }
    of_classes = sklearn_metrics.precision_recall_fscore_support(truth, predicted, **options)
    for name, per_class in zip(("precision", "recall", "f1"), of_classes, strict=False):
        expected[f"macro_{name}"] = per_class.mean()
        expected |= {f"{name}/{c}": value for c, value in zip(classes, per_class, strict=True)}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


@pytest.mark.parametrize("weighted", [False, True])
def test_several_labels_equal_scikit_learn(weighted):
    rng = np.random.default_rng(1)
    truth = rng.random((200, 4)) < [0.5, 0.2, 0.1, 0.7]
    scores = (0.6 * rng.random((200, 4)) + 0.4 * truth * rng.random((200, 4))).round(2)
    weights = rng.integers(0, 4, 200).astype(float) if weighted else np.ones(200)
    samples = [
        Sample(f"{n:03}", "g", tuple(np.flatnonzero(truth[n]).tolist()), tuple(scores[n]))
        for n in range(200)
    ]
    classes = ["a", "b", "c", "d"]
    found = measure_of(samples, classes)(weights)
    predicted, options = scores >= 0.5, {"sample_weight": weights}
    assert found["mean_average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(truth, scores, average="macro", **options)
    )
    assert found["macro_auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, scores, average="macro", **options)
    )
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(
            sklearn_metrics.f1_score(truth, predicted, average=average, **options)
        )
    assert found["exact_match"] == pytest.approx(
        sklearn_metrics.accuracy_score(truth, predicted, **options)
    )
    recalls = sklearn_metrics.recall_score(truth, predicted, average=None, **options)
    assert [found[f"recall/{c}"] for c in classes] == pytest.approx(recalls.tolist())


# What does not exist


def test_what_is_not_defined_is_none_with_a_reason():
    scores = score_classification(binary([1, 1], [0.9, 0.4]), ("no", "yes"), "yes", NONE)
    found = scores.values
    assert found["auc"].value is None and found["auc"].reason == "every sample is yes"
    assert found["recall/no"].value is None and found["recall/no"].reason == "no sample is no"
    assert found["f1/no"].value is None and found["macro_auc"].value is None
    assert "no sample is no" in found["macro_auc"].reason
    assert found["accuracy"].value == found["balanced_accuracy"].value == 0.5
    assert found["macro_f1"].value == pytest.approx(2 / 3)  # of the class that is there
    text = json.dumps(scores.as_dict(), allow_nan=False)
    assert '"every sample is yes"' in text


def test_a_class_never_predicted_has_no_precision_but_an_f1_of_zero():
    found = score_classification(binary([1, 0], [0.1, 0.2]), ("no", "yes"), "yes", NONE).values
    assert found["precision"].value is None
    assert found["precision"].reason == "nothing is predicted as yes"
    assert found["macro_precision"].reason == "nothing is predicted as yes"
    assert (found["recall"].value, found["f1"].value) == (0, 0)


def test_samples_without_any_label_are_samples():
    samples = [Sample("a", "a", (), (0.1, 0.2)), Sample("b", "b", (), (0.1, 0.3))]
    found = score_classification(samples, ("p", "q"), bootstrap=NONE).values
    assert found["exact_match"].value == 1
    assert found["micro_f1"].value is None and "none is predicted" in found["micro_f1"].reason
    assert found["macro_f1"].value is None and found["mean_average_precision"].value is None


# Intervals and processes


def test_intervals_are_over_groups_and_count_resamples_without_a_class():
    truths = [1, 1, 0, 0, 0, 0]
    samples = binary(truths, [0.9, 0.8, 0.3, 0.6, 0.2, 0.1], groups=list("aabbcd"))
    found = score_classification(samples, ("no", "yes"), "yes", Bootstrap(400)).values
    auc, accuracy = found["auc"], found["accuracy"]
    # Group a holds all positives: it is left out of (3/4)^4 of the draws.
    assert auc.undefined_resamples == pytest.approx(400 * (3 / 4) ** 4, abs=45)
    assert accuracy.undefined_resamples == 0
    assert accuracy.low < 5 / 6 < accuracy.high == 1
    again = score_classification(samples, ("no", "yes"), "yes", Bootstrap(400)).values
    assert again == found


def test_samples_that_came_twice_count_once_and_order_does_not_matter():
    shuffled = EIGHT + EIGHT[:3]
    random.Random(0).shuffle(shuffled)
    one = score_classification(shuffled, ("no", "yes"), "yes")
    two = score_classification(EIGHT, ("no", "yes"), "yes")
    assert one.as_dict() == two.as_dict() and one.num_samples == 8


def test_intervals_of_many_classes_lie_about_their_figures():
    truth, scores, _ = random_samples(2000, 23)
    samples = [
        Sample(f"{n:04}", f"g{n % 97}", int(truth[n]), tuple(scores[n])) for n in range(2000)
    ]
    found = score_classification(samples, [str(k) for k in range(23)], bootstrap=Bootstrap(100))
    for name in ("accuracy", "macro_f1", "macro_auc", "f1/7"):
        value = found.values[name]
        assert value.low < value.value < value.high, name


# Bad input


@pytest.mark.parametrize(
    ("samples", "classes", "positive", "message"),
    [
        ([], ("no", "yes"), None, "no samples"),
        (EIGHT, ("no", "no"), None, "not distinct"),
        (EIGHT, ("no", "yes"), "maybe", "'maybe'.*no, yes"),
        ([Sample("v", "g", 2, (0.5, 0.5))], ("no", "yes"), None, "v has the label 2.*0 to 1"),
        ([Sample("v", "g", (0, 3), (0.5, 0.5))], ("no", "yes"), None, "v has the label 3"),
        ([Sample("v", "g", 0, (0.5,))], ("no", "yes"), None, "give 2 from 0 to 1"),
        ([Sample("v", "g", 0, (0.5, float("nan")))], ("no", "yes"), None, "give 2 from 0 to 1"),
        ([EIGHT[0], Sample("w", "g", (0,), (0.5, 0.5))], ("no", "yes"), None, "w has several"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(samples, classes, positive, message):
    with pytest.raises(ConfigError, match=message):
        score_classification(samples, classes, positive)
