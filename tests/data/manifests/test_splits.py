from pathlib import Path

import pytest

from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.splits import split_rows, take_share
from endofm.errors import ManifestError


def row(number, group, split, label="a"):
    return Segment(Path("/x"), f"{number}.mp4", group=group, split=split, labels={"k": label})


def kind(segment):
    return segment.labels["k"]


def corpus(groups=10):
    rows = [row(n, f"g{n // 2}", "train", "ab"[n // 2 % 2]) for n in range(2 * groups)]
    return [*rows, row(900, "t", "test"), row(901, "u", "other")]


def test_a_validation_part_is_cut_by_group_with_every_kind_and_always_the_same():
    splits = split_rows(corpus(), 0.2, kind)
    groups = [{s.group for s in part} for part in (splits.train, splits.val, splits.test)]
    assert [len(one) for one in groups] == [8, 2, 1]
    assert not groups[0] & groups[1]
    assert {kind(s) for s in splits.val} == {"a", "b"}
    assert splits == split_rows(list(reversed(corpus()))[::-1], 0.2, kind)
    assert "seed 0" in splits.cut


def test_named_validation_rows_are_kept_as_they_are():
    rows = [*corpus(), row(902, "v", "val")]
    splits = split_rows(rows, 0.2, kind)
    assert [s.group for s in splits.val] == ["v"] and splits.cut == ""


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_group_in_two_splits_is_refused(split):
    rows = [*corpus(), row(902, "g3", split)]
    with pytest.raises(ManifestError, match=r"1 groups are in both.*g3"):
        split_rows(rows, 0.2, kind)


def test_missing_splits_are_named():
    with pytest.raises(ManifestError, match=r"No row has the split 'test' \(there are: other, tr"):
        split_rows([r for r in corpus() if r.split != "test"], 0.2, kind)
    with pytest.raises(ManifestError, match="too few"):
        split_rows([row(1, "g", "train"), row(2, "t", "test")], 0.2, kind)


def test_a_smaller_share_of_labels_is_part_of_a_larger_and_has_every_kind():
    train = [r for r in corpus(20) if r.split == "train"]
    parts = [take_share(train, share, 3, kind) for share in (0.01, 0.3, 1)]
    names = [{s.group for s in part} for part in parts]
    assert [len(one) for one in names] == [2, 6, 20]
    assert names[0] < names[1] < names[2]
    assert {kind(s) for s in parts[0]} == {"a", "b"}
    assert take_share(train, 0.3, 4, kind) != parts[1]
