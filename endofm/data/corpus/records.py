"""What is finished: a line of JSON for every source, kept while a corpus is being made.

One file a shard, written by one process, a line at a time. A line that was cut off by a kill is
dropped when the file is opened again, and its source is looked at anew.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from endofm.data.loading.closing import Closing
from endofm.data.places import is_below, leads_out
from endofm.errors import CorpusError
from endofm.files import hold

Record = dict[str, Any]


class Records(Closing):
    """Appends the records of one shard; used as a context.

    Raises `RunError` where another run is at it.
    """

    def __init__(self, file: Path):
        self._lock = hold(
            file.with_name(file.name + ".lock"),
            f"Another run is writing {file}; wait for it or end it, then run this again.",
        )
        self._file = file.open("ab")
        self._file.truncate(len(_whole_lines(file)))

    def add(self, record: Record) -> None:
        """One more line, on its way to the disk when this returns."""
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Let another run at the file."""
        self._file.close()
        self._lock.close()


def read_records(files: Iterable[Path]) -> dict[str, Record]:
    """The latest record of every source."""
    found: dict[str, Record] = {}
    for file in files:
        for line in _whole_lines(file).splitlines():
            record = json.loads(line)
            _check_names(file, record)
            found[record["source"]] = record
    return found


def _check_names(file: Path, record: Record) -> None:
    """Raise `CorpusError` where a record names files outside the corpus, by which some go."""
    out = file.parent.parent
    folders: set[str] = set()  # a file of one that stays below may go: of a link, the link goes
    for clip in record["clips"]:
        for name in (clip["path"], *clip["files"], *filter(None, [clip.get("masks")])):
            folder = str(PurePosixPath(name).parent)
            if leads_out(name) or not (folder in folders or is_below(out, folder)):
                raise CorpusError(
                    f"{file} names the file {name[:200]!a}, which lies outside of the clips and "
                    f"masks of {out}; delete that folder and prepare it again."
                )
            folders.add(folder)


def _whole_lines(file: Path) -> bytes:
    if not file.is_file():
        return b""
    data = file.read_bytes()
    return data[: data.rfind(b"\n") + 1]
