"""LDPolypVideo (Ma et al. 2021): colonoscopy with boxes, and videos without full labels."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import by_stem, members, stem
from endofm.data.corpus.labels import read_numbers
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError

_FRAMES = re.compile(r"(?:^|/)(Train|TrainValid|Valid|Val|Test)/Images/([^/]+)$", re.IGNORECASE)
_SPLITS = {"train": "train", "trainvalid": "train", "valid": "val", "val": "val", "test": "test"}


def find(tree: Tree) -> Iterator[Source] | None:
    """Folders `<split>/Images/<video>`, and whatever videos lie elsewhere."""
    folders = {f: n for f, n in tree.folders_of_pictures().items() if _FRAMES.search(f)}
    videos = tree.videos()
    return _sources(tree, folders, videos) if folders or videos else None


def _sources(tree: Tree, folders: dict[str, list[str]], videos: list[str]) -> Iterator[Source]:
    for folder, names in folders.items():
        match = _FRAMES.search(folder)
        assert match is not None
        part, video = match.groups()
        labels = folder[: match.start(2)].removesuffix("Images/") + f"Annotations/{video}"
        texts = by_stem(tree, tree.names(labels, {".txt"}))
        boxes = _boxes(tree, folder, names, texts) if texts else None
        if not texts:
            tree.left_out.append(
                f"{folder} in {tree.root} has no annotations in {labels}; it is prepared without."
            )
        found = {} if boxes is None else {"polyp": "polyp" if boxes else "normal"}
        name = f"{part}/{video}"
        yield Source(
            name,
            pictures=members(tree, names),
            group=f"ldpolypvideo/{name}",
            split=_SPLITS[part.lower()],
            labels=found,
            boxes=boxes,
        )
    for name in videos:
        yield Source(name, video=tree[name], group=f"ldpolypvideo/{name}", labels=_polyp(name))


def _boxes(
    tree: Tree, folder: str, names: list[str], texts: dict[str, Member]
) -> dict[int, list[Box]]:
    """A file a frame: how many, then `x1 y1 x2 y2` each."""
    place = {stem(name): index for index, name in enumerate(names)}
    absent = [name for name in texts if name not in place]
    if absent or len(texts) < len(place):
        first = (
            texts[absent[0]] if absent else f"{folder}/{next(s for s in place if s not in texts)}"
        )
        raise CorpusError(
            f"{folder} in {tree.root} has {len(place)} frames and {len(texts)} annotations, which "
            f"don't match ({first} stands alone); the download may be incomplete."
        )
    boxes: dict[int, list[Box]] = {}
    for name, member in texts.items():
        rows = read_numbers(member)
        if (
            not rows
            or len(rows[0]) != 1
            or len(rows) != rows[0][0] + 1
            or {*map(len, rows[1:])} - {4}
        ):
            raise CorpusError(
                f"{member} is no count followed by so many rows x1 y1 x2 y2; fetch it again."
            )
        if len(rows) > 1:
            boxes[place[name]] = [Box.of(row, "polyp") for row in rows[1:]]
    return boxes


def _polyp(name: str) -> dict[str, str]:
    """The weak label of a video, where its folder says so."""
    if re.search(r"without.?polyp|no.?polyp|normal|negative", name, re.IGNORECASE):
        return {"polyp": "normal"}
    if re.search(r"with.?polyp|positive|abnormal", name, re.IGNORECASE):
        return {"polyp": "polyp"}
    return {}


LDPOLYPVIDEO = Adapter(
    "ldpolypvideo",
    "Train/Images/1/*.jpg with Train/Annotations/1/*.txt (also Valid and Test), and .avi videos "
    "without full annotations",
    find,
    {"frames": 40_266},
)
