"""What adapters share: names without suffix, and pairs of pictures and label files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError

Value = TypeVar("Value")


def stem(name: str) -> str:
    """The last part of a name, without its suffix."""
    return PurePosixPath(name).stem


def members(tree: Tree, names: Iterable[str]) -> list[Member]:
    """The files of these names."""
    return [tree[name] for name in names]


def by_stem(tree: Tree, names: Iterable[str]) -> dict[str, Member]:
    """Files by their stems."""
    return {stem(name): tree[name] for name in names}


def masks_of(
    tree: Tree, source: str, pictures: Sequence[str], masks: Mapping[str, Member]
) -> list[Member]:
    """The mask of each picture, by stem; none at all where no picture has one.

    Raises `CorpusError` where only some have one, or a mask has no picture.
    """
    stems = [stem(name) for name in pictures]
    found = [masks[name] for name in stems if name in masks]
    if found and len(found) < len(stems):
        absent = next(name for name in stems if name not in masks)
        raise CorpusError(
            f"{source} has {len(stems)} frames, but {len(found)} masks (none for {absent}); part "
            f"of the download in {tree.root} is missing."
        )
    extra = [name for name in masks if name not in set(stems)]
    if found and extra:
        raise CorpusError(
            f"{masks[extra[0]]} is the mask of no picture of {source}; part of the download in "
            f"{tree.root} is missing."
        )
    return found


def note_unmatched(tree: Tree, labelled: Iterable[str], present: Iterable[str], what: str) -> None:
    """Say which labels have no `what` and which of these have no label."""
    labelled, present = set(labelled), set(present)
    without, unlabelled = sorted(labelled - present), sorted(present - labelled)
    if without:
        tree.left_out.append(
            f"{len(without)} labels have no {what} in {tree.root}, the first: {without[0]}; the "
            "download may be incomplete."
        )
    if unlabelled:
        tree.left_out.append(
            f"{len(unlabelled)} of the {what}s in {tree.root} have no label, the first: "
            f"{unlabelled[0]}; they are prepared without one."
        )


def check_columns(member: Member, rows: Sequence[Mapping[str, str]], *columns: str) -> None:
    """Raise `CorpusError` where a table lacks a column."""
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        there = ", ".join(rows[0]) if rows else "no rows"
        raise CorpusError(
            f"{member} has no column '{missing[0]}' (found: {there}); is it another version of the "
            "dataset?"
        )
