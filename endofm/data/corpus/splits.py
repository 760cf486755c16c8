"""Split lists: which source or group belongs to which split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from endofm.data.corpus.labels import read_table
from endofm.data.corpus.source import Source
from endofm.data.corpus.tree import Member
from endofm.errors import CorpusError


def apply_split_list(sources: Sequence[Source], file: Path) -> list[Source]:
    """The same sources with the splits of a CSV list (`group,split` or `name,split`).

    A source that the list leaves out has no split. Raises `CorpusError` for a list that names what
    is not there or names something twice.
    """
    rows = read_table(Member(Path(file)))
    if not rows or "split" not in rows[0] or not {"group", "name"} & set(rows[0]):
        raise CorpusError(f"{file} is no split list; its first line is group,split or name,split.")
    key = "group" if "group" in rows[0] else "name"
    splits: dict[str, str] = {}
    for row in rows:
        if row[key] in splits:
            raise CorpusError(f"{file} names {row[key]} twice; a {key} belongs to one split.")
        splits[row[key]] = row["split"]
    known = {getattr(source, key) for source in sources}
    absent = [name for name in splits if name not in known]
    if len(absent) == len(splits):
        raise CorpusError(
            f"{file} names no {key} of this download (the first: {absent[0]}); the download has "
            f"{min(known)}, for one."
        )
    return [replace(source, split=splits.get(getattr(source, key), "")) for source in sources]
