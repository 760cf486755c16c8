"""SUN colonoscopy database (Misawa et al. 2021): frames with polyps and boxes, and without."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import by_stem, members, note_unmatched
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError

_CASE = re.compile(r"case\w*\d+", re.IGNORECASE)
_BOX = re.compile(r"(-?\d+),(-?\d+),(-?\d+),(-?\d+)(?:,-?\d+)?")


def find(tree: Tree) -> Iterator[Source] | None:
    """Folders named after a case, below folders that are called positive or negative."""
    cases = {
        folder: names
        for folder, names in tree.folders_of_pictures().items()
        if _CASE.fullmatch(folder.rpartition("/")[2])
        and re.search("positive|negative", folder, re.I)
    }
    return _sources(tree, cases) if cases else None


def _sources(tree: Tree, cases: dict[str, list[str]]) -> Iterator[Source]:
    texts = [name for name in tree.names(suffixes={".txt"}) if "/annotation_txt/" in f"/{name}"]
    annotations = by_stem(tree, texts)
    positive = {f.rpartition("/")[2] for f in cases if _is_positive(f)}
    if texts:
        note_unmatched(tree, annotations, positive, "case")
    seen: dict[str, str] = {}
    for folder, names in cases.items():
        case = folder.rpartition("/")[2]
        kind = "positive" if _is_positive(folder) else "negative"
        name = f"{kind}/{case}"
        if name in seen:
            raise CorpusError(
                f"{tree.root} has {name} twice, in {seen[name]} and {folder}; remove one of them."
            )
        seen[name] = folder
        boxes: dict[int, list[Box]] | None = {}
        if kind == "positive":
            boxes = _boxes(annotations[case], names, folder) if case in annotations else None
        labels = {"polyp": "polyp" if kind == "positive" else "normal"}
        yield Source(
            name,
            pictures=members(tree, names),
            fps=30.0,
            group=f"sun/{name}",
            labels=labels,
            boxes=boxes,
            box_slack=float("inf"),  # some reach over the frame's edge
        )


def _is_positive(folder: str) -> bool:
    kinds = re.findall("positive|negative", folder, re.IGNORECASE)
    return bool(kinds[-1].lower() == "positive")


def _boxes(member: Member, names: list[str], folder: str) -> dict[int, list[Box]]:
    """Lines of a picture's name and one or more `x1,y1,x2,y2,class`."""
    place = {name.rpartition("/")[2]: index for index, name in enumerate(names)}
    boxes: dict[int, list[Box]] = {}
    for number, line in enumerate(member.read_text().splitlines(), 1):
        picture, _, rest = line.strip().partition(" ")
        if not picture:
            continue
        if picture not in place:
            raise CorpusError(
                f"{member}, line {number} labels {picture}, which is not in {folder}; the download "
                "may be incomplete."
            )
        found = _BOX.findall(rest)
        if not found:
            raise CorpusError(f"{member}, line {number} has no box x1,y1,x2,y2; mend the line.")
        boxes.setdefault(place[picture], []).extend(
            Box.of(map(float, corners), "polyp") for corners in found
        )
    return boxes


SUN = Adapter(
    "sun",
    "sundatabase_positive_part1/case1/*.jpg, .../annotation_txt/case1.txt and "
    "sundatabase_negative_part1/case*/*.jpg, unpacked with the password",
    find,
    {"frames": 158_690},
)
