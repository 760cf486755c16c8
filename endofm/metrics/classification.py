"""How well clips or videos are classified, with intervals over groups.

Where a class has no sample its recall, F1 and AUC do not exist; nothing is put in their place.
Means over classes (`macro_`, `balanced_accuracy`) are over the classes that have samples, as in
scikit-learn; `macro_auc` and `mean_average_precision` exist only where every class has samples, and
`macro_precision` where every class that has samples is also predicted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError
from endofm.metrics.bootstrap import Bootstrap, Value, Weights, estimate

CALIBRATION_BINS = 15
"""Bins of equal width of the calibration error, as in Guo et al. (ICML 2017)."""
THRESHOLD = 0.5
"""From which probability on a label of several is told."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A clip or video: what it is, and how probable each class is thought to be."""

    name: str
    """Equal ones are the same sample counted again."""
    group: str
    """What is drawn whole: a patient, a procedure, a video."""
    truth: int | tuple[int, ...]
    """Its class; a tuple for several labels, or none, at once."""
    probabilities: tuple[float, ...]
    """One for each class, in order."""
    alphas: tuple[float, ...] = ()
    """Evidence and prior for each class, where the head tells them."""


@dataclass(frozen=True)
class Scores:
    """What `score_classification` finds."""

    values: Mapping[str, Value]
    """Figures by name; those of a class as `recall/NAME`."""
    classes: tuple[str, ...]
    confusion: npt.NDArray[np.int64] | None
    """[K, K], true classes as rows, predicted ones as columns; none for several labels at once."""
    num_samples: int
    num_groups: int

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "values": {name: value.as_dict() for name, value in self.values.items()},
            "classes": list(self.classes),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "num_samples": self.num_samples,
            "num_groups": self.num_groups,
        }


def score_classification(
    samples: Iterable[Sample],
    classes: Sequence[str],
    positive: str | None = None,
    bootstrap: Bootstrap | None = None,
) -> Scores:
    """All figures of the samples of all batches and processes, each sample counted once.

    With `positive`, one of two classes, `precision`, `recall`, `f1` and `auc` are its own. Raises
    `ConfigError` for no samples, for labels that are no class, and for what are no probabilities.
    """
    every = distinct(samples)
    measure = measure_of(every, classes, positive)
    values = estimate(
        measure, [s.group for s in every], bootstrap or Bootstrap(), measure.reasons()
    )
    confusion = None
    if isinstance(measure, MultiClass):
        confusion = measure.confusion(np.ones(len(every))).astype(np.int64)
    num_groups = len({sample.group for sample in every})
    return Scores(values, tuple(classes), confusion, len(every), num_groups)


def distinct(samples: Iterable[Sample]) -> list[Sample]:
    """Every sample once, the first that came, sorted: samplers of several processes repeat some."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.name, sample)
    return [first[name] for name in sorted(first)]


def measure_of(
    samples: Sequence[Sample], classes: Sequence[str], positive: str | None = None
) -> "MultiClass | MultiLabel":
    """The figures as a function of how often each sample counts."""
    _check(samples, classes, positive)
    probabilities = np.array([sample.probabilities for sample in samples], np.float64)
    if not isinstance(samples[0].truth, tuple):
        return MultiClass(np.array([s.truth for s in samples]), probabilities, classes, positive)
    truth = np.zeros((len(samples), len(classes)), bool)
    for row, sample in zip(truth, samples, strict=True):
        row[list(sample.truth if isinstance(sample.truth, tuple) else ())] = True
    return MultiLabel(truth, probabilities, classes)


class MultiClass:
    """One class a sample: `truth` [S], `probabilities` [S, K]; the most probable is predicted."""

    def __init__(
        self,
        truth: npt.NDArray[np.int64],
        probabilities: Floats,
        classes: Sequence[str],
        positive: str | None,
    ) -> None:
        self.classes, self.positive, self.truth = classes, positive, truth
        self.predicted = probabilities.argmax(axis=1)
        self.confidence = probabilities.max(axis=1)
        self.rankings = [
            Ranking(truth == label, probabilities[:, label]) for label in range(len(classes))
        ]

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by name; NaN where one is not defined."""
        confusion = self.confusion(weights)
        hits, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        per_class = _per_class(hits, true, predicted)
        per_class["auc"] = np.array([ranking.auc(weights) for ranking in self.rankings])
        has_samples = true > 0
        found = {
            "accuracy": float(_ratio(hits.sum(), weights.sum())),
            "balanced_accuracy": float(per_class["recall"][has_samples].mean()),
            "macro_auc": float(per_class["auc"].mean()),
            "kappa": cohens_kappa(confusion),
            "calibration_error": calibration_error(
                self.confidence, self.predicted == self.truth, weights
            ),
        }
        for name in ("precision", "recall", "f1"):
            found[f"macro_{name}"] = float(per_class[name][has_samples].mean())
        return found | _named(per_class, self.classes, self.positive)

    def confusion(self, weights: Weights) -> Counts:
        """[K, K], true classes as rows."""
        num = len(self.classes)
        cells = np.bincount(self.truth * num + self.predicted, weights, num * num)
        return cells.reshape(num, num).astype(np.float64)

    def reasons(self) -> dict[str, str]:
        """Why figures are not defined, by name."""
        confusion = self.confusion(np.ones(len(self.truth)))
        reasons = _reasons(self.classes, confusion.sum(1), confusion.sum(0), len(self.truth))
        reasons["kappa"] = "every sample is, and is told to be, of one class"
        if self.positive is not None:
            for name in ("precision", "recall", "f1", "auc"):
                reasons[name] = reasons.get(f"{name}/{self.positive}", "")
        return reasons


class MultiLabel:
    """Any number of labels a sample: `truth` bool [S, K], `probabilities` [S, K]."""

    positive: str | None = None

    def __init__(
        self, truth: npt.NDArray[np.bool_], probabilities: Floats, classes: Sequence[str]
    ) -> None:
        self.classes, self.truth, self.probabilities = classes, truth, probabilities
        self.predicted = probabilities >= THRESHOLD
        self.rankings = [
            Ranking(truth[:, label], probabilities[:, label]) for label in range(len(classes))
        ]

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Figures by name; NaN where one is not defined."""
        hits = weights @ (self.truth & self.predicted)
        true, predicted = weights @ self.truth, weights @ self.predicted
        per_class = _per_class(hits, true, predicted)
        per_class["auc"] = np.array([ranking.auc(weights) for ranking in self.rankings])
        per_class["average_precision"] = np.array(
            [ranking.average_precision(weights) for ranking in self.rankings]
        )
        is_right = self.truth == self.predicted
        errors = [
            calibration_error(self.probabilities[:, label], self.truth[:, label], weights)
            for label in range(len(self.classes))
        ]
        has_samples = true > 0
        found = {
            "mean_average_precision": float(per_class["average_precision"].mean()),
            "macro_auc": float(per_class["auc"].mean()),
            "micro_f1": float(_ratio(2 * hits.sum(), true.sum() + predicted.sum())),
            "exact_match": float(_ratio(weights @ is_right.all(1), weights.sum())),
            "calibration_error": float(np.mean(errors)),
        }
        for name in ("precision", "recall", "f1"):
            told = per_class[name][has_samples]
            found[f"macro_{name}"] = float(told.mean()) if has_samples.any() else np.nan
        return found | _named(per_class, self.classes, None)

    def reasons(self) -> dict[str, str]:
        """Why figures are not defined, by name."""
        num = len(self.truth)
        reasons = _reasons(self.classes, self.truth.sum(0), self.predicted.sum(0), num)
        if not (self.truth.any() or self.predicted.any()):
            reasons["micro_f1"] = "no sample has a label, and none is predicted"
        return reasons


class Ranking:
    """Samples in the order of their scores, equal ones together: [S] -> AUC, average precision."""

    def __init__(self, is_positive: npt.NDArray[np.bool_], scores: Floats) -> None:
        self.order = np.argsort(-scores, kind="stable")
        falling = scores[self.order]
        self.starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
        self.is_positive = is_positive[self.order]

    def auc(self, weights: Weights) -> float:
        """Chance that a positive scores above a negative, ties as half; NaN without both."""
        positive, negative = self._counts(weights)
        pairs = positive.sum() * negative.sum()
        above = np.cumsum(positive) - positive / 2
        return float(_ratio((negative * above).sum(), pairs))

    def average_precision(self, weights: Weights) -> float:
        """Precision at each score, weighted by the recall it adds; NaN where none is positive."""
        positive, negative = self._counts(weights)
        found, told = np.cumsum(positive), np.cumsum(positive + negative)
        precision = np.divide(found, told, out=np.zeros_like(found), where=told > 0)
        return float(_ratio((precision * positive).sum(), positive.sum()))

    def _counts(self, weights: Weights) -> tuple[Counts, Counts]:
        """Positives and negatives at each distinct score, highest first."""
        ordered = weights[self.order]
        positive = np.add.reduceat(ordered * self.is_positive, self.starts)
        return positive, np.add.reduceat(ordered, self.starts) - positive


def calibration_error(
    confidence: Floats, is_right: npt.NDArray[np.bool_], weights: Weights
) -> float:
    """Expected calibration error: |share right - mean confidence|, bins weighted by their samples.

    15 bins of equal width from 0 to 1 (Guo et al., ICML 2017). For several labels at once it is the
    mean over labels, a label's probability against the share of samples that have it.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights * (is_right - confidence), CALIBRATION_BINS)
    return float(_ratio(np.abs(gaps).sum(), weights.sum()))


def cohens_kappa(confusion: Counts) -> float:
    """Agreement beyond chance of true and predicted classes, [K, K] counts; 1: all right.

    Unweighted: every error counts alike (Cohen, Educ. Psychol. Meas. 1960). NaN where chance alone
    would agree always: all samples are, and are told to be, of one class.
    """
    num = confusion.sum()
    observed = _ratio(np.trace(confusion), num)
    by_chance = _ratio(confusion.sum(0) @ confusion.sum(1), num**2)
    return float(_ratio(observed - by_chance, 1 - by_chance))


def _per_class(hits: Counts, true: Counts, predicted: Counts) -> dict[str, Floats]:
    f1 = _ratio(2 * hits, true + predicted)
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, true),
        "f1": np.where(true > 0, f1, np.nan),
    }


def _named(
    per_class: Mapping[str, Floats], classes: Sequence[str], positive: str | None
) -> dict[str, float]:
    found = {}
    for name, values in per_class.items():
        if positive is not None:
            found[name] = float(values[classes.index(positive)])
        found |= {f"{name}/{c}": float(v) for c, v in zip(classes, values, strict=True)}
    return found


def _reasons(
    classes: Sequence[str], true: Counts, predicted: Counts, num_samples: int
) -> dict[str, str]:
    """Why figures of a class, and means over classes, are not defined."""
    reasons = {}
    for name, num_true, num_predicted in zip(classes, true, predicted, strict=True):
        missing = f"no sample is {name}" if not num_true else ""
        only = f"every sample is {name}" if num_true == num_samples else ""
        for figure in ("recall", "f1", "average_precision"):
            reasons[f"{figure}/{name}"] = missing
        reasons[f"auc/{name}"] = missing or only
        reasons[f"precision/{name}"] = "" if num_predicted else f"nothing is predicted as {name}"
    has_samples = [name for name, num in zip(classes, true, strict=True) if num]
    for figure, of, among in (
        ("macro_auc", "auc", classes),
        ("mean_average_precision", "average_precision", classes),
        ("macro_precision", "precision", has_samples),
    ):
        reasons[figure] = "; ".join(filter(None, (reasons[f"{of}/{name}"] for name in among)))
    for figure in ("macro_precision", "macro_recall", "macro_f1"):
        if not has_samples:
            reasons[figure] = "no sample has a label"
    return reasons


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    """A quotient that is NaN, without a warning, where there is nothing to divide by."""
    top, bottom = np.asarray(above, np.float64), np.asarray(below, np.float64)
    out: Floats = np.full(np.shape(top), np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def _check(samples: Sequence[Sample], classes: Sequence[str], positive: str | None) -> None:
    if not samples:
        raise ConfigError("There are no samples to score; the split has none.")
    if len(set(classes)) != len(classes) or not classes:
        raise ConfigError(f"The classes {list(classes)} are not distinct names; give each once.")
    if positive is not None and (positive not in classes or len(classes) != 2):
        raise ConfigError(
            f"The positive class is {positive!r}, but the classes are {', '.join(classes)}; name "
            "one of two, or none."
        )
    kind = type(samples[0].truth)
    for sample in samples:
        several = isinstance(sample.truth, tuple)
        if several != issubclass(kind, tuple):
            raise ConfigError(
                f"{sample.name} has {'several labels' if several else 'one label'} where others "
                "don't; give all samples a class number, or all a tuple."
            )
        for label in sample.truth if isinstance(sample.truth, tuple) else (sample.truth,):
            if not 0 <= label < len(classes):
                raise ConfigError(
                    f"{sample.name} has the label {label}, but there are {len(classes)} classes, "
                    f"0 to {len(classes) - 1}."
                )
        told = sample.probabilities
        if len(told) != len(classes) or not all(0 <= p <= 1 + 1e-6 for p in told):
            raise ConfigError(
                f"{sample.name} has the probabilities {[round(p, 4) for p in told]}; give "
                f"{len(classes)} from 0 to 1, one for each class."
            )
