"""What frozen features know of labels: scores on held-out clips, beside baselines."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError
from endofm.metrics.representation import (
    Features,
    Labels,
    Score,
    balanced_accuracy,
    knn_predict,
    linear_predict,
    whitened_knn_predict,
)

METHODS: dict[str, Callable[[Features, Labels, Features], Labels]] = {
    "k-NN": knn_predict,
    "k-NN, whitened": whitened_knn_predict,
    "linear probe": linear_predict,
}
Pair = tuple[Features, Features]
"""Features of the training clips and of the held-out clips."""


def probe_scores(
    kinds: Mapping[str, Pair],
    train: Sequence[Segment],
    test: Sequence[Segment],
    labels: Sequence[str],
    seed: int,
) -> list[Score]:
    """Balanced accuracy of each of `METHODS` for every kind of features and every label.

    `kinds` maps a name ("pretrained", "untrained", ...) to features of `train` and of `test`, in
    their order. Groups must not be divided between the two: raises `ManifestError`.
    """
    shared = {one.group for one in train} & {one.group for one in test}
    if shared:
        raise ManifestError(
            f"The group {min(shared)} is in both splits, so held-out scores would be too good; "
            "keep all clips of a group in one split."
        )
    rows: list[Score] = []
    for label in labels:
        known, asked = (np.array([s.labels[label] for s in split]) for split in (train, test))
        for kind, (seen, held_out) in kinds.items():
            for method, predict in METHODS.items():
                score = balanced_accuracy(asked, predict(seen, known, held_out))
                rows.append(
                    Score(features=kind, label=label, method=method, seed=seed, score=score)
                )
    return rows
