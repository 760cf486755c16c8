"""Manifests: tables of clips.

A manifest is a CSV file (UTF-8) with one clip a row. `path` is needed and is relative to the
manifest's root, by default the folder it lies in; all else may be left out:

| column | meaning |
| --- | --- |
| `path` | a video file, a folder of frames (png, jpg, ...) in natural order, or a CT volume |
| `start_frame`, `stop_frame` | the clip within it in shown frames, stop excluded; empty: all |
| `group` | what must not be divided between splits (a patient, a procedure); empty: the path |
| `split` | `train`, `val`, `test` or a name of your own |
| `masks` | a folder with a mask picture for every shown frame of the file (see `annotations`) |
| `boxes` | a CSV table of boxes for the file's frames (see `annotations`) |
| `label_*` | a label, any number of them: `label_polyp`, `label_scene`, ... |
"""

import csv
import difflib
import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from endofm.data.places import is_below, leads_out
from endofm.errors import ManifestError
from endofm.files import write_csv

COLUMNS = ("path", "start_frame", "stop_frame", "group", "split", "masks", "boxes")
PATHS = ("path", "masks", "boxes")
LABEL_PREFIX = "label_"


@dataclass(frozen=True)
class Segment:
    """One clip: a stretch of a video file or of a folder of frames.

    `path` is relative, with forward slashes, `root` the folder it starts from. Frames are counted
    as shown; `stop_frame` is excluded, `None` means to the end. `masks` and `boxes` are relative
    too; empty where the clip has none.
    """

    root: Path
    path: str
    start_frame: int = 0
    stop_frame: int | None = None
    group: str = ""
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    masks: str = ""
    boxes: str = ""

    @property
    def file(self) -> Path:
        """Where the video or the folder of frames lies."""
        return self.root / self.path

    @property
    def num_frames(self) -> int | None:
        """Frames the manifest promises; `None` where it leaves the end open."""
        return None if self.stop_frame is None else self.stop_frame - self.start_frame

    @property
    def name(self) -> str:
        """How messages call it: `folder/video.mp4[150:300]`."""
        if self.start_frame == 0 and self.stop_frame is None:
            return self.path
        return (
            f"{self.path}[{self.start_frame}:{'' if self.stop_frame is None else self.stop_frame}]"
        )

    @property
    def key(self) -> int:
        """A number of 64 bits that names the clip, wherever its row and its root are."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest(), "little")


def read_manifest(manifest: Path, root: Path | None = None) -> list[Segment]:
    """Read and check every row; files are not opened.

    Raises `ManifestError` for a missing, empty or malformed manifest, naming line and way out.
    """
    manifest = Path(manifest)
    root = (Path(root) if root is not None else manifest.parent).absolute()
    try:
        _check_places(manifest, root)
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            _check_columns(manifest, columns)
            segments = [_segment(manifest, reader.line_num, row, root) for row in reader]
    except OSError as error:
        raise ManifestError(
            f"{manifest} can't be read ({error.strerror}); correct its name or its permissions."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{manifest} is not a UTF-8 CSV table ({error}); write it again as one."
        ) from error
    if not segments:
        raise ManifestError(
            f"{manifest} has no rows; `endofm manifest FOLDER {manifest}` fills it from a folder "
            "of videos."
        )
    _check_unique(manifest, segments)
    _check_inside(manifest, segments, root)
    return segments


def write_manifest(manifest: Path, segments: Sequence[Segment]) -> None:
    """Write segments as a manifest; the file appears whole or not at all.

    Paths are written as the segments have them: relative to their root, which `read_manifest` must
    be given unless the manifest lies there. Raises `OutputError` where it can't be written.
    """
    labels = sorted({name for segment in segments for name in segment.labels})
    columns = [
        name
        for name in COLUMNS
        if name not in ("masks", "boxes") or any(getattr(segment, name) for segment in segments)
    ]
    rows = (
        ["" if value is None else value for value in (getattr(segment, name) for name in columns)]
        + [segment.labels.get(name, "") for name in labels]
        for segment in segments
    )
    write_csv(manifest, [*columns, *(LABEL_PREFIX + name for name in labels)], rows)


def _check_places(manifest: Path, root: Path) -> None:
    if manifest.is_dir():
        made = f"{manifest.name or 'clips'}.csv"
        command = shlex.join(["endofm", "manifest", str(manifest), made])
        raise ManifestError(
            f"{manifest} is a folder; `{command}` makes a manifest of the videos in it, then give "
            f"{made}."
        )
    if not manifest.is_file():
        raise ManifestError(
            f"{manifest} is not a manifest file; `endofm manifest FOLDER {manifest}` makes one "
            "from a folder of videos."
        )
    if not root.is_dir():
        raise ManifestError(
            f"The root folder {root} of {manifest} does not exist; mount it or give another root."
        )


def _check_columns(manifest: Path, columns: list[str]) -> None:
    if "path" not in columns:
        found = ", ".join(columns) or "nothing"
        raise ManifestError(
            f"{manifest} has no column 'path' in its first line (found: {found}); name the columns "
            "there."
        )
    for column in columns:
        if column in COLUMNS or (column.startswith(LABEL_PREFIX) and column != LABEL_PREFIX):
            continue
        near = difflib.get_close_matches(column, COLUMNS, n=1)
        hint = (
            f"did you mean '{near[0]}'?"
            if near
            else f"a label's column begins with '{LABEL_PREFIX}'."
        )
        raise ManifestError(f"{manifest} has an unknown column '{column}'; {hint}")
    if len(set(columns)) != len(columns):
        raise ManifestError(
            f"{manifest} names a column twice ({', '.join(columns)}); keep one of them."
        )


def _segment(
    manifest: Path, line: int, row: Mapping[str | None, str | None], root: Path
) -> Segment:
    where = f"{manifest}, line {line}"
    if None in row or None in row.values():
        raise ManifestError(
            f"{where} does not have as many values as there are columns; mend the row."
        )
    values = {str(name): (value or "").strip() for name, value in row.items()}
    if not values["path"]:
        raise ManifestError(f"{where} has an empty path; fill it in or delete the row.")
    path, masks, boxes = (_path(where, row.get(column) or "", root) for column in PATHS)
    start = _frame(where, "start_frame", values.get("start_frame", "")) or 0
    stop = _frame(where, "stop_frame", values.get("stop_frame", ""))
    if stop is not None and stop <= start:
        raise ManifestError(
            f"{where}: stop_frame {stop} is not after start_frame {start}; a clip needs at least "
            "one frame."
        )
    labels = {
        name[len(LABEL_PREFIX) :]: value
        for name, value in values.items()
        if name.startswith(LABEL_PREFIX)
    }
    group, split = values.get("group") or path, values.get("split", "")
    return Segment(root, path, start, stop, group, split, labels, masks, boxes)


def _path(where: str, written: str, root: Path) -> str:
    """A path as it stands, since a file's name may begin or end with a space; empty stays so."""
    path = written.replace("\\", "/") if os.name == "nt" else written
    if not path.strip():
        return ""
    if "\0" in path:
        raise ManifestError(
            f"{where}: the path {path!a} has a NUL in it, which no file's name has; write it again."
        )
    if leads_out(path):
        raise ManifestError(
            f"{where}: the path '{path}' leaves its root; write it relative to {root}, without "
            "'..'."
        )
    return str(PurePosixPath(path))  # one name for `./a.mp4` and `a.mp4`


def _frame(where: str, column: str, value: str) -> int | None:
    if value == "":
        return None
    if not value.isdecimal():
        raise ManifestError(
            f"{where}: {column} is '{value}', but must be a whole number of frames, 0 or more."
        )
    return int(value)


def _check_unique(manifest: Path, segments: Iterable[Segment]) -> None:
    seen: set[str] = set()
    for segment in segments:
        if segment.name in seen:
            raise ManifestError(
                f"{manifest} has the clip {segment.name} twice; delete one of the rows."
            )
        seen.add(segment.name)


def _check_inside(manifest: Path, segments: Iterable[Segment], root: Path) -> None:
    """Links may not lead out of the root either; every path is resolved once."""
    home = root.resolve()
    for path in sorted({getattr(segment, name) for segment in segments for name in PATHS} - {""}):
        try:
            inside = path == "." or is_below(root, path)
        except (OSError, RuntimeError, ValueError) as error:
            raise ManifestError(
                f"{manifest}: the path '{path}' can't be followed ({error}); mend the link."
            ) from error
        if not inside:
            raise ManifestError(
                f"{manifest}: '{path}' is a link that leaves its root {home}; make the root a "
                "folder that holds both."
            )
