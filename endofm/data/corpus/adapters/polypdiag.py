"""PolypDiag (Tian et al. 2022), as Endo-FM prepared it: videos with and without a polyp."""

from collections.abc import Iterator

from endofm.data.corpus.adapters.common import note_unmatched, stem
from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.tree import Tree
from endofm.errors import CorpusError

_POLYP = {"0": "normal", "1": "polyp"}


def find(tree: Tree) -> Iterator[Source] | None:
    """`videos` beside `splits/train.txt`, ..., whose lines are `<video>,<0 or 1>`."""
    base = tree.base("videos", "splits")
    return None if base is None else _sources(tree, base)


def _sources(tree: Tree, base: str) -> Iterator[Source]:
    videos = {name.removeprefix(f"{base}videos/"): name for name in tree.videos(f"{base}videos")}
    stems = {stem(key): name for key, name in videos.items()}
    rows: dict[str, tuple[str, str]] = {}
    for table in tree.names(f"{base}splits", {".txt", ".csv"}):
        for number, line in enumerate(tree[table].read_text().splitlines(), 1):
            if not line.strip():
                continue
            name, _, label = line.strip().rpartition(",")
            if label.strip() not in _POLYP:
                raise CorpusError(
                    f"{tree[table]}, line {number} is '{line.strip()}', but a video and 0 or 1 are "
                    "due; mend the line."
                )
            key = stem(name)
            if key in rows and rows[key][0] != stem(table):
                raise CorpusError(
                    f"{tree[table]}, line {number} has {key}, which is in {rows[key][0]} too; a "
                    "video belongs to one split."
                )
            rows[key] = (stem(table), label.strip())
    note_unmatched(tree, rows, stems, "video")
    for key, name in stems.items():
        split, label = rows.get(key, ("", ""))
        labels = {"polyp": _POLYP[label]} if label else {}
        group = f"polypdiag/{key}"
        yield Source(key, video=tree[name], group=group, split=split, labels=labels)


POLYPDIAG = Adapter(
    "polypdiag",
    "videos/*.mp4 with splits/train.txt and test.txt (lines `name,0` or `name,1`)",
    find,
)
