"""What a manifest's rows are labelled with, as class numbers; checked before training."""

from collections import Counter
from collections.abc import Sequence

from endofm.data.manifests.manifest import LABEL_PREFIX, Segment
from endofm.errors import ManifestError

SEPARATOR = ";"
"""Between several labels of one row."""
NONE = "none"
"""A row that was looked at and has no label, where there may be several; empty: not labelled."""

Truth = int | tuple[int, ...]
"""A class number, or all of a row that may have several."""


def find_classes(
    segments: Sequence[Segment], label: str, classes: Sequence[str] = (), several: bool = False
) -> tuple[str, ...]:
    """The names of the classes: as given, or every value of the column `label_<label>`, sorted.

    Raises `ManifestError` for an absent column, a row without a label, and a label that is none of
    the given classes.
    """
    columns = sorted({name for segment in segments for name in segment.labels})
    if label not in columns:
        known = ", ".join(LABEL_PREFIX + name for name in columns) or "no label's column at all"
        raise ManifestError(
            f"The manifest has no column {LABEL_PREFIX}{label}; it has {known}: name one of them "
            "in data.label."
        )
    empty = [segment for segment in segments if not segment.labels.get(label)]
    if empty:
        hint = f" (no finding at all is written '{NONE}')" if several else ""
        raise ManifestError(
            f"{len(empty)} of {len(segments)} rows have nothing in the column "
            f"{LABEL_PREFIX}{label}, the first is {empty[0].name}; fill it in{hint}, or take the "
            "rows out of the splits."
        )
    found = sorted({name for segment in segments for name in _names(segment, label, several)})
    if not classes:
        if len(found) < (1 if several else 2):
            raise ManifestError(
                f"The column {LABEL_PREFIX}{label} has no two classes ({', '.join(found)}), so "
                "there is nothing to learn; name another in data.label."
            )
        return tuple(found)
    for segment in segments:
        for name in _names(segment, label, several):
            if name not in classes:
                raise ManifestError(
                    f"{segment.name} has the label '{name}' in {LABEL_PREFIX}{label}, which is "
                    f"none of data.classes ({', '.join(classes)}); correct it or name it there."
                )
    return tuple(classes)


def truth_of(segment: Segment, label: str, classes: Sequence[str], several: bool) -> Truth:
    """A row's class number, or the numbers of all its labels, rising."""
    numbers = sorted(list(classes).index(name) for name in _names(segment, label, several))
    return tuple(numbers) if several else numbers[0]


def check_trained(truths: Sequence[Truth], classes: Sequence[str]) -> None:
    """Raise `ManifestError` for a class that no training row has."""
    seen = count_classes(truths, len(classes))
    absent = [name for name, number in zip(classes, seen, strict=True) if not number]
    if absent:
        raise ManifestError(
            f"No training row is labelled {', '.join(absent)}, so a network can't learn it; add "
            "such rows, take more of them (data.label_share), or leave the class out of "
            "data.classes and its rows out of the manifest."
        )


def count_classes(truths: Sequence[Truth], num_classes: int) -> list[int]:
    """Rows of every class."""
    counts = Counter(
        number for truth in truths for number in (truth if isinstance(truth, tuple) else (truth,))
    )
    return [counts[number] for number in range(num_classes)]


def _names(segment: Segment, label: str, several: bool) -> list[str]:
    value = segment.labels.get(label, "")
    if not several:
        return [value]
    names = [name.strip() for name in value.split(SEPARATOR) if name.strip()]
    return [] if names == [NONE] else sorted(set(names))
