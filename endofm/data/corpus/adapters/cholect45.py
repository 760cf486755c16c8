"""CholecT45 (Nwoye et al. 2022; CholecTriplet): a frame a second, with instrument, verb, target."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import members, note_unmatched, stem
from endofm.data.corpus.labels import read_numbers
from endofm.data.corpus.source import Adapter, Source, runs
from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError

_KINDS = ("instrument", "verb", "target", "triplet")


def find(tree: Tree) -> Iterator[Source] | None:
    """`data/VIDnn` with tables of the same name in `instrument`, `verb`, `target`, `triplet`."""
    base = tree.base("data", "triplet")
    if base is None:
        return None
    return _sources(tree, base, tree.folders_of_pictures(f"{base}data"))


def _sources(tree: Tree, base: str, folders: dict[str, list[str]]) -> Iterator[Source]:
    names = {kind: _names(tree, f"{base}dict/{kind}.txt") for kind in _KINDS}
    labelled = {stem(name) for name in tree.names(f"{base}triplet", {".txt"})}
    note_unmatched(tree, labelled, (f.rpartition("/")[2] for f in folders), "video")
    for folder, pictures in folders.items():
        video = folder.rpartition("/")[2]
        place = {_number(name): index for index, name in enumerate(pictures)}
        frames: list[dict[str, str]] = [{} for _ in pictures]
        for kind in _KINDS:
            table = f"{base}{kind}/{video}.txt"
            if table in tree:
                _add(frames, place, tree[table], kind, names[kind])
        digits = re.sub(r"\D", "", video)
        yield Source(
            video,
            pictures=members(tree, pictures),
            group=f"cholec80/video{int(digits):02d}" if digits else f"cholect45/{video}",
            stretches=[stretch for stretch in runs(frames) if stretch.labels],
        )


def _add(
    frames: list[dict[str, str]],
    place: dict[int, int],
    member: Member,
    kind: str,
    names: dict[int, str],
) -> None:
    """Rows of a frame number and a 0 or 1 for each class."""
    for row in read_numbers(member):
        number = int(row[0])
        if number not in place:
            raise CorpusError(
                f"{member} labels frame {number}, which is not there; the download may be "
                "incomplete."
            )
        present = [names.get(i, str(i)) for i, value in enumerate(row[1:]) if value == 1]
        frames[place[number]][kind] = ";".join(present) or "none"


def _names(tree: Tree, table: str) -> dict[int, str]:
    """Lines `0:grasper`; empty where the table is absent, so that numbers stay."""
    if table not in tree:
        return {}
    pairs = re.findall(r"^\s*(\d+)\s*[:,\t ]\s*(.+?)\s*$", tree[table].read_text(), re.MULTILINE)
    return {int(number): name.replace(";", ",") for number, name in pairs}


def _number(name: str) -> int:
    digits = re.sub(r"\D", "", stem(name))
    if not digits:
        raise CorpusError(f"{name} has no frame number; CholecT45's frames are 000000.png, ...")
    return int(digits)


CHOLECT45 = Adapter(
    "cholect45",
    "data/VID01/000000.png with triplet/VID01.txt, instrument, verb, target and dict",
    find,
    {"frames": 90_489},
)
