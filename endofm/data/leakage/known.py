"""Known leaks: a list beside the manifest, with which training refuses to start.

`endofm corpus leaks` writes `clips.leaks.csv` beside `clips.csv`. A row counts where its clip is
among those to train on and the other clip isn't. There are three ways out: put the clip in
quarantine, take its row out of the manifest, or write `yes` under `accepted`.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.quarantine import read_table, write_table
from endofm.errors import ManifestError, RunError

_YES, _NO = ("yes", "true", "1"), ("", "no", "false", "0")


@dataclass(frozen=True)
class Leak:
    """A clip that shows what another one shows."""

    clip: str
    """Name of a clip of the manifest that the list lies beside."""
    against: str
    """Name of the other clip."""
    manifest: str
    """The other's manifest; empty: the same one."""
    kind: str
    """`exact` (equal to the last bit), `near` (shared frames) or `group` (in two splits)."""
    correlation: float = 1.0
    """Of the shared frames' detail, the median."""
    frames: str = ""
    """Shared frames of the clip, counted from its start: `first-last`."""
    against_frames: str = ""
    """The same of the other clip."""
    change: str = ""
    """What was done to a copy: `mirrored`, `cropped to 90 %`."""
    splits: str = ""
    """Splits of both clips, `train/test`."""
    accepted: str = ""
    """`yes`: train all the same."""


def leaks_file(manifest: Path) -> Path:
    """Where a manifest's list lies."""
    return manifest.with_name(f"{manifest.stem}.leaks.csv")


def read_leaks(manifest: Path) -> list[Leak]:
    """A manifest's list; empty where there is none. Raises `ManifestError` for a malformed one."""
    file, names = leaks_file(manifest), [field.name for field in fields(Leak)]
    leaks = []
    for line, row in enumerate(read_table(file, names, "endofm corpus leaks"), 2):
        try:
            number = float(row["correlation"])
        except ValueError as error:
            raise ManifestError(
                f"{file}, row {line}: correlation is '{row['correlation']}', not a number."
            ) from error
        if row["accepted"].strip().lower() not in _YES + _NO:
            raise ManifestError(
                f"{file}, row {line}: accepted is '{row['accepted']}'; write yes or leave it empty."
            )
        others = {name: row[name] for name in names if name != "correlation"}
        leaks.append(Leak(**others, correlation=number))
    return leaks


def write_leaks(manifest: Path, leaks: Sequence[Leak]) -> Path:
    """Write the list beside a manifest, whole or not at all; what was accepted stays so."""
    file = leaks_file(manifest)
    accepted = {(one.clip, one.manifest, one.against): one.accepted for one in read_leaks(manifest)}
    rows = []
    for leak in leaks:
        *values, own = astuple(leak)
        known = accepted.get((leak.clip, leak.manifest, leak.against), "")
        values[4] = f"{leak.correlation:.3f}"
        rows.append([*values, own or known])
    write_table(file, [field.name for field in fields(Leak)], rows)
    return file


def known_leaks(manifest: Path, segments: Sequence[Segment]) -> list[Leak]:
    """Leaks of a manifest that matter to training on `segments` of it, and aren't accepted.

    A copy in the same manifest is one only if it lies in another split, and isn't trained on too.
    """
    names = {segment.name for segment in segments}
    return [
        leak
        for leak in read_leaks(manifest)
        if leak.clip in names
        and leak.accepted.strip().lower() not in _YES
        and not (leak.manifest == "" and (leak.against in names or _is_one_split(leak)))
    ]


def _is_one_split(leak: Leak) -> bool:
    one, _, other = leak.splits.partition("/")
    return one == other


def refuse_leaks(manifest: Path, segments: Sequence[Segment]) -> None:
    """Raise `RunError` where training on `segments` of a manifest would use a known leak."""
    leaks = known_leaks(manifest, segments)
    if leaks:
        first = leaks[0]
        where = f" of {first.manifest}" if first.manifest else ""
        raise RunError(
            f"{leaks_file(manifest)} knows {len({leak.clip for leak in leaks})} clips to train on "
            f"that show what held-out clips show; the first: {first.clip} and {first.against}"
            f"{where}. Run `endofm corpus leaks` with --quarantine to leave them out, or write yes "
            "under accepted in their rows to train all the same."
        )
