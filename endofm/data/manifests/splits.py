"""Training, validation and test rows that share no group; a validation part is cut where none is.

Everything here is a pure function of the rows, a share and a seed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError

VAL_SEED = 0
"""Decides which groups become validation, whatever the seed of a run."""

Key = Callable[[Segment], object]


@dataclass(frozen=True)
class Splits:
    """Rows by what they are for."""

    train: tuple[Segment, ...]
    val: tuple[Segment, ...]
    test: tuple[Segment, ...]
    cut: str = ""
    """How the validation part came to be, where it was cut from the training rows."""

    @property
    def all(self) -> list[Segment]:
        """Every row in use."""
        return [*self.train, *self.val, *self.test]

    @property
    def fingerprint(self) -> str:
        """Changes with any row, its labels or its split; not with where the files lie."""
        told = [
            [(s.name, s.group, sorted(s.labels.items()), s.masks, s.boxes) for s in part]
            for part in (self.train, self.val, self.test)
        ]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def split_rows(rows: Sequence[Segment], val_share: float, kind: Key) -> Splits:
    """The rows named `train`, `val` and `test`; others are left out.

    Without a `val` row, `val_share` of the training groups are cut off, of every kind (`kind` of a
    group's first row) at least one where it has two. Raises `ManifestError` where a split is
    missing and for a group that is in two of them.
    """
    train, val, test = (
        tuple(row for row in rows if row.split == name) for name in ("train", "val", "test")
    )
    found = ", ".join(sorted({row.split or "(empty)" for row in rows}))
    for name, part in (("train", train), ("test", test)):
        if not part:
            raise ManifestError(
                f"No row has the split '{name}' (there are: {found}); the validation part is cut "
                "from 'train', but the test rows must be named: write them into the column 'split'."
            )
    refuse_shared(train=train, val=val, test=test)
    if val:
        return Splits(train, val, test)
    train, val = cut_groups(train, val_share, VAL_SEED, kind)
    if not val or not train:
        raise ManifestError(
            f"There is no 'val' row, and {val_share:g} of the training groups can't be cut off: "
            f"{len({row.group for row in train or val})} are too few; name rows of other groups "
            "'val' in the column 'split', or change data.val_share."
        )
    groups = len({row.group for row in val})
    told = f"{groups} training groups ({val_share:g} of them, seed {VAL_SEED}) are validation"
    return Splits(train, val, test, told)


def draw_balanced(rows: Sequence[Segment], held_share: float, seed: int, kind: Key) -> Splits:
    """As many groups of each kind as the rarest has, drawn anew for each seed and divided alike.

    `held_share` of them become validation, as many test; at least one each. Whole groups are drawn,
    with all their rows; what their rows' `split` says does not matter. Raises `ManifestError` for a
    group of two kinds, and for a kind with fewer than three groups.
    """
    _refuse_mixed(rows, kind)
    kinds = _by_kind(rows, seed, kind)
    rarest = min(kinds, key=lambda name: len(kinds[name]))
    count = len(kinds[rarest])
    held = max(1, round(held_share * count))
    if count < 3 or 2 * held >= count:
        raise ManifestError(
            f"'{rarest}' has {count} groups (videos or patients), too few for a balanced draw, "
            f"which needs one to learn from and {held_share:g} of them (at least one) each for "
            "validation and test; label more of them, or lower data.val_share."
        )
    chosen = {
        group: "test" if number < held else "val" if number < 2 * held else "train"
        for groups in kinds.values()
        for number, group in enumerate(groups[:count])
    }
    train, val, test = (
        tuple(row for row in rows if chosen.get(row.group) == name)
        for name in ("train", "val", "test")
    )
    told = (
        f"{count} groups of each class are drawn for each seed, {held} of them for validation and "
        f"{held} for the test, whatever their split; the test sets of two seeds share groups"
    )
    return Splits(train, val, test, told)


def _refuse_mixed(rows: Sequence[Segment], kind: Key) -> None:
    kinds: dict[str, object] = {}
    for row in rows:
        if kinds.setdefault(row.group, kind(row)) != kind(row):
            raise ManifestError(
                f"The group {row.group} has rows of '{kinds[row.group]}' and of '{kind(row)}', but "
                "a balanced draw takes whole groups of one class; take one kind of its rows out, "
                "or name fixed splits and use task.protocol honest."
            )


def refuse_shared(**parts: Sequence[Segment]) -> None:
    """Raise `ManifestError` for a group that two parts share."""
    names = list(parts)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            shared = {row.group for row in parts[one]} & {row.group for row in parts[other]}
            if shared:
                raise ManifestError(
                    f"{len(shared)} groups are in both '{one}' and '{other}' (the first: "
                    f"{min(shared)}), so the scores would be too good; keep all rows of a group in "
                    "one split."
                )


def take_share(rows: Sequence[Segment], share: float, seed: int, kind: Key) -> tuple[Segment, ...]:
    """A share of the groups, of every kind at least one; a smaller share is part of a larger."""
    if share >= 1:
        return tuple(rows)
    chosen = {
        group
        for groups in _by_kind(rows, seed, kind).values()
        for group in groups[: max(1, round(share * len(groups)))]
    }
    return tuple(row for row in rows if row.group in chosen)


def cut_groups(
    rows: Sequence[Segment], share: float, seed: int, kind: Key
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The rest and a share of the groups; of every kind with two groups at least one in each."""
    chosen = set()
    for groups in _by_kind(rows, seed, kind).values():
        count = min(max(1, round(share * len(groups))), len(groups) - 1)
        chosen |= set(groups[:count])
    rest = tuple(row for row in rows if row.group not in chosen)
    return rest, tuple(row for row in rows if row.group in chosen)


def _by_kind(rows: Sequence[Segment], seed: int, kind: Key) -> dict[object, list[str]]:
    """Groups by the kind of their first row, shuffled."""
    kinds: dict[str, object] = {}
    for row in rows:
        kinds.setdefault(row.group, kind(row))
    groups: dict[object, list[str]] = {}
    for group in sorted(kinds):
        groups.setdefault(kinds[group], []).append(group)
    return {
        name: [groups[name][i] for i in np.random.default_rng((seed, n)).permutation(len(members))]
        for n, (name, members) in enumerate(sorted(groups.items(), key=lambda item: str(item[0])))
    }
