"""Balanced draws: as many groups of every class, whole, divided alike, and anew for each seed."""

from collections import Counter
from pathlib import Path

import pytest

from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.splits import Splits, draw_balanced
from endofm.errors import ManifestError

NAMES = ("train", "val", "test")


def rows(sizes, rows_a_group=1):
    """Rows of as many groups as `sizes` says of each label; what `split` says is of no account."""
    return [
        Segment(
            Path(), f"{label}_{number}_{part}.mp4", group=f"{label}_{number}",
            split="test" if number % 2 else "", labels={"organ": label},
        )
        for label, size in sizes.items()
        for number in range(size)
        for part in range(rows_a_group)
    ]  # fmt: skip


def organ(row):
    return row.labels["organ"]


def parts(drawn: Splits):
    return {name: getattr(drawn, name) for name in NAMES}


def groups(part):
    return {row.group for row in part}


@pytest.mark.parametrize("seed", range(5))
def test_every_part_has_as_many_groups_of_each_class_and_no_group_is_in_two(seed):
    drawn = draw_balanced(rows({"upper": 10, "lower": 37}, rows_a_group=3), 0.2, seed, organ)
    for name, count in zip(NAMES, (6, 2, 2), strict=True):
        part = parts(drawn)[name]
        assert Counter(map(organ, part)) == {"upper": 3 * count, "lower": 3 * count}
        assert len(groups(part)) == 2 * count
    assert sum(len(groups(part)) for part in parts(drawn).values()) == len(groups(drawn.all)) == 20


def test_a_seed_draws_the_same_whatever_the_order_of_rows_and_another_seed_another_test():
    every = rows({"upper": 12, "lower": 40})
    one, again = (draw_balanced(given, 0.25, 7, organ) for given in (every, every[::-1]))
    for name in NAMES:
        assert groups(parts(one)[name]) == groups(parts(again)[name])
    tests = {frozenset(groups(draw_balanced(every, 0.25, seed, organ).test)) for seed in range(20)}
    assert len(tests) == 20
    drawn = set().union(*(groups(draw_balanced(every, 0.25, s, organ).all) for s in range(20)))
    assert len(drawn) == 52  # in 20 draws every group of the common class comes up


def test_paper_size_is_sixty_pairs_of_which_twelve_test():
    drawn = draw_balanced(rows({"upper gi": 60, "lower gi": 314}), 0.2, 0, organ)
    assert [len(part) for part in parts(drawn).values()] == [72, 24, 24]
    assert "60 groups of each class" in drawn.cut


def test_three_groups_of_a_class_are_enough_and_two_are_told():
    assert len(draw_balanced(rows({"a": 3, "b": 9, "c": 4}), 0.2, 0, organ).all) == 9
    with pytest.raises(ManifestError, match=r"'b' has 2 groups .* too few for a balanced draw"):
        draw_balanced(rows({"a": 30, "b": 2}), 0.2, 0, organ)
    with pytest.raises(ManifestError, match=r"0\.5 of them .* or lower data\.val_share"):
        draw_balanced(rows({"a": 30, "b": 20}), 0.5, 0, organ)


def test_a_group_of_two_classes_is_told():
    mixed = [
        *rows({"a": 4, "b": 4}),
        Segment(Path(), "x.mp4", group="a_1", labels={"organ": "b"}),
    ]
    with pytest.raises(ManifestError, match=r"group a_1 has rows of 'a' and of 'b'"):
        draw_balanced(mixed, 0.2, 0, organ)
