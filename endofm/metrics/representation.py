"""How much frozen features [S, D] know: nearest neighbours, a linear probe, retrieval."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Labels = npt.NDArray[np.str_]


class Score(TypedDict):
    """Balanced accuracy (0 to 1) of features at telling a label, by a method, for one seed."""

    features: str
    label: str
    method: str
    seed: int
    score: float


def unit(features: Features) -> Features:
    """Rows scaled to length 1."""
    rows: Features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return rows


def knn_predict(
    train: Features, labels: Labels, test: Features, k: int = 5, temperature: float = 0.07
) -> Labels:
    """Labels of `test` by the k nearest of `train`, as `knn_votes` weighs them."""
    votes = knn_votes(train, labels, test, k, temperature)
    predicted: Labels = np.unique(labels)[votes.argmax(axis=1)]
    return predicted


def knn_votes(
    train: Features, labels: Labels, test: Features, k: int = 5, temperature: float = 0.07
) -> Features:
    """Votes [S, K] for each label (sorted) of the k nearest of `train` in cosine, weighted
    exp(cos / temperature).

    Features are centred on the mean of `train` first, so that a direction common to all clips does
    not hide the differences. Weighting as in DINO (k-NN evaluation).
    """
    center = train.mean(axis=0, keepdims=True)
    cosine = unit(test - center) @ unit(train - center).T
    k = min(k, len(train))
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    weights = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / temperature)
    votes: Features = np.stack(
        [(weights * (labels[nearest] == name)).sum(axis=1) for name in np.unique(labels)], axis=1
    )
    return votes


def whitened_knn_predict(
    train: Features, labels: Labels, test: Features, components: int = 32
) -> Labels:
    """Labels of `test` by its nearest in `train`, once every direction counts alike.

    The leading principal components of `train`, each scaled to deviation 1. In features that one
    direction dominates, plain nearest neighbours are neighbours in that direction only.
    """
    from sklearn.decomposition import PCA

    components = min(components, train.shape[1], len(train) - 1)
    whitening = PCA(components, whiten=True, svd_solver="full").fit(train)
    return knn_predict(whitening.transform(train), labels, whitening.transform(test))


def linear_predict(train: Features, labels: Labels, test: Features, seed: int = 0) -> Labels:
    """Labels of `test` by logistic regression, as `linear_model` fits it."""
    predicted: Labels = linear_model(train, labels, seed).predict(test)
    return predicted


def linear_model(train: Features, labels: Labels, seed: int = 0) -> Any:
    """Logistic regression on standardised features, fitted: has `predict` and `predict_proba`.

    The strength of the penalty is chosen by stratified cross-validation inside `train`.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(5, int(np.unique(labels, return_counts=True)[1].min()))
    if folds < 2:
        raise ValueError("Every label needs at least two training clips for a linear probe.")
    model = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=np.logspace(-4, 1, 6),
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="balanced_accuracy",
            max_iter=2000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        ),
    )
    return model.fit(train, labels)


def balanced_accuracy(truth: Labels, predicted: Labels) -> float:
    """Mean over the classes of the share found; chance is 1 / classes."""
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(truth, predicted))


def retrieval_at_1(features: Features, groups: Labels) -> float:
    """Share of clips whose nearest other clip (cosine, centred) is of the same group.

    Clips that are alone in their group are not asked for, but can be found.
    """
    rows = unit(features - features.mean(axis=0, keepdims=True))
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -np.inf)
    found = groups[cosine.argmax(axis=1)] == groups
    names, counts = np.unique(groups, return_counts=True)
    asked = np.isin(groups, names[counts > 1])
    return float(found[asked].mean())


def retrieval_chance(groups: Labels) -> float:
    """What `retrieval_at_1` gives for features that know nothing."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    same = counts[inverse] - 1
    return float((same[same > 0] / (len(groups) - 1)).mean())


def color_statistics(clips: npt.NDArray[np.uint8]) -> Features:
    """A baseline that sees no shape: [S, T, H, W, 3] -> means, deviations and histograms of RGB.

    Per channel: mean and standard deviation over the clip, and a histogram of 16 bins.
    """
    rows = []
    for clip in clips:
        pixels = clip.reshape(-1, 3)
        histograms = [np.bincount(pixels[:, c] >> 4, minlength=16) / len(pixels) for c in range(3)]
        rows.append(np.concatenate([pixels.mean(0) / 255, pixels.std(0) / 255, *histograms]))
    return np.stack(rows)
