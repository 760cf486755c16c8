"""Clips that are known to be unusable: a list beside the manifest, which training leaves out.

`endofm corpus check` writes `clips.quarantine.csv` beside `clips.csv`: a row a clip, with what is
wrong. Delete a row, or the file, and the clip is used again.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError
from endofm.files import write_csv

COLUMNS = ("clip", "fault", "reason")
LEAK = "leak"
"""The fault of a clip that shows what a held-out clip shows; `endofm corpus leaks` finds them."""


class Quarantined(NamedTuple):
    """A clip that is not to be used: its name in the manifest, the kind of fault, a sentence."""

    clip: str
    fault: str
    reason: str


def quarantine_file(manifest: Path) -> Path:
    """Where a manifest's list lies."""
    return manifest.with_name(f"{manifest.stem}.quarantine.csv")


def read_quarantine(manifest: Path) -> list[Quarantined]:
    """A manifest's list; empty where there is none. Raises `ManifestError` for a malformed one."""
    rows = read_table(quarantine_file(manifest), COLUMNS, "endofm corpus check")
    return [Quarantined(*(row[name] for name in COLUMNS)) for row in rows]


def write_quarantine(file: Path, rows: Sequence[Quarantined]) -> None:
    """Write a list, whole or not at all. Raises `ManifestError` where it can't be written."""
    write_table(file, COLUMNS, rows)


def without_quarantined(
    manifest: Path, segments: Sequence[Segment]
) -> tuple[list[Segment], list[Quarantined]]:
    """The clips that are not on the manifest's list, and those rows of it that name the others."""
    listed = {row.clip: row for row in read_quarantine(manifest)}
    kept = [segment for segment in segments if segment.name not in listed]
    dropped = [listed[segment.name] for segment in segments if segment.name in listed]
    return kept, dropped


def read_table(file: Path, columns: Sequence[str], made_by: str) -> list[dict[str, str]]:
    """Rows of a CSV with those columns; none where there is no file."""
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            rows = [] if missing else list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{file} can't be read ({error}); `{made_by}` writes it.") from error
    if missing:
        raise ManifestError(
            f"{file} has no column {', '.join(missing)}; delete it and let `{made_by}` write it "
            "again."
        )
    for line, row in enumerate(rows, 2):
        if any(row[name] is None for name in columns) or None in row:
            raise ManifestError(
                f"{file}, row {line}, does not have as many values as there are columns; mend it."
            )
    return rows


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV; the file appears whole or not at all."""
    write_csv(file, columns, rows)
