import numpy as np
import pytest

from endofm.metrics.representation import (
    balanced_accuracy,
    color_statistics,
    knn_predict,
    linear_predict,
    retrieval_at_1,
    retrieval_chance,
    whitened_knn_predict,
)


def clusters(rng, per_class=30, noise=0.3):
    centers = rng.normal(size=(3, 16))
    labels = np.repeat(np.array(["a", "b", "c"]), per_class)
    rows = centers[np.repeat(np.arange(3), per_class)] + noise * rng.normal(
        size=(3 * per_class, 16)
    )
    return rows + 10, labels  # a common offset hides the differences from a plain cosine


@pytest.mark.parametrize("predict", [knn_predict, linear_predict])
def test_probes_find_clusters_but_nothing_in_shuffled_labels(predict):
    rng = np.random.default_rng(0)
    rows, labels = clusters(rng)
    train, test = slice(0, None, 2), slice(1, None, 2)
    assert balanced_accuracy(labels[test], predict(rows[train], labels[train], rows[test])) > 0.95
    mixed = rng.permutation(labels)
    assert balanced_accuracy(mixed[test], predict(rows[train], mixed[train], rows[test])) < 0.6


def test_nearest_neighbours_vote_by_cosine():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2], [-1.0, -0.3]])
    labels = np.array(["right", "right", "left", "left"])
    assert list(knn_predict(train, labels, np.array([[5.0, 1.0], [-0.1, 0.0]]), k=3)) == [
        "right", "left",
    ]  # fmt: skip


def test_balanced_accuracy_is_the_mean_recall_of_the_classes():
    truth = np.array(["a"] * 8 + ["b"] * 2)
    assert balanced_accuracy(truth, np.array(["a"] * 10)) == 0.5
    assert balanced_accuracy(truth, np.array(["a"] * 8 + ["b", "a"])) == 0.75


def test_retrieval_counts_nearest_neighbours_of_the_same_group():
    features = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1.0]])
    groups = np.array(["a", "a", "b", "b", "alone"])
    assert retrieval_at_1(features, groups) == 1.0
    assert retrieval_at_1(features, np.array(["a", "b", "a", "b", "alone"])) == 0.0
    assert retrieval_chance(groups) == pytest.approx(1 / 4)


def test_colour_statistics_see_colours_but_no_arrangement():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, 4, 8, 8, 3), dtype=np.uint8)
    mixed = rng.permutation(clip.reshape(-1, 3)).reshape(clip.shape)
    np.testing.assert_allclose(color_statistics(clip), color_statistics(mixed))
    assert not np.allclose(color_statistics(clip), color_statistics(clip // 2))
    assert color_statistics(clip).shape == (1, 3 + 3 + 3 * 16)


def test_a_probe_with_too_few_labels_says_so():
    with pytest.raises(ValueError, match="two training clips"):
        linear_predict(np.eye(3), np.array(["a", "b", "b"]), np.eye(3))


def test_whitening_finds_what_a_strong_direction_hides():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 40)
    features = rng.normal(size=(80, 4)) * [100, 0.01, 1, 1]  # noise dominates
    features[:, 1] += np.where(labels == "a", 0.05, -0.05)
    train, test = features[:60], features[60:]
    plain = knn_predict(train, labels[:60], test)
    whitened = whitened_knn_predict(train, labels[:60], test)
    assert balanced_accuracy(labels[60:], whitened) > 0.85 > balanced_accuracy(labels[60:], plain)
    assert whitened_knn_predict(train[:4], labels[:4], test).shape == (20,)  # few clips
