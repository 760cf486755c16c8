from pathlib import Path

import pytest

from endofm.data.manifests.labels import check_trained, find_classes, truth_of
from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError


def rows(*labels, column="finding"):
    return [
        Segment(Path("/x"), f"{n}.mp4", labels={column: label}) for n, label in enumerate(labels)
    ]


def test_classes_are_the_columns_values_sorted():
    assert find_classes(rows("polyp", "normal", "polyp"), "finding") == ("normal", "polyp")
    assert find_classes(rows("b;a", "none", "c"), "finding", several=True) == ("a", "b", "c")


def test_given_classes_keep_their_order_and_refuse_others():
    some = rows("polyp", "ulcer")
    assert find_classes(some, "finding", ("ulcer", "polyp", "x")) == ("ulcer", "polyp", "x")
    with pytest.raises(ManifestError, match=r"1\.mp4 has the label 'ulcer'.*none of data\.classes"):
        find_classes(some, "finding", ("polyp", "normal"))


def test_an_absent_column_and_an_empty_label_are_two_faults():
    with pytest.raises(ManifestError, match="no column label_organ; it has label_finding"):
        find_classes(rows("a", "b"), "organ")
    with pytest.raises(ManifestError, match=r"1 of 3 rows have nothing.*first is 1\.mp4"):
        find_classes(rows("a", "", "b"), "finding")
    with pytest.raises(ManifestError, match="no two classes"):
        find_classes(rows("a", "a"), "finding")


def test_truth_is_a_number_or_the_numbers_of_all_labels():
    classes = ("a", "b", "c")
    assert truth_of(rows("b")[0], "finding", classes, False) == 1
    assert [truth_of(row, "finding", classes, True) for row in rows("c; a", "none")] == [(0, 2), ()]


def test_a_class_absent_from_training_is_refused():
    check_trained([0, 1], ("a", "b"))
    with pytest.raises(ManifestError, match="No training row is labelled c,"):
        check_trained([(0, 1), (1,)], ("a", "b", "c"))
