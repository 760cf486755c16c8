"""Your own folder: any tree of videos or frames, with or without a table of labels."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from endofm.data.corpus.adapters.common import members, note_unmatched
from endofm.data.corpus.labels import read_coco, read_json, read_table
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError

_NAMES = ("path", "name", "file", "filename", "video")
_LABEL_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth"}
    | {"segmentation", "segmentations", "segmask", "segmasks"}
)


def find(tree: Tree) -> Iterator[Source] | None:
    """Every video, and every folder of pictures as one video."""
    videos = {name: [name] for name in tree.videos()}
    folders = {}
    for folder, names in tree.folders_of_pictures().items():
        if _LABEL_WORDS & set(re.split(r"[^a-z]+", folder.lower())):
            tree.left_out.append(
                f"{folder} in {tree.root} is named like a folder of labels; rename it if it is "
                "none."
            )
        else:
            folders[folder] = names
    if not videos and not folders:
        return None
    return _sources(tree, videos | folders, set(videos))


def _sources(tree: Tree, found: dict[str, list[str]], videos: set[str]) -> Iterator[Source]:
    rows = _rows(tree, found)
    boxes = _coco(tree)
    for name, names in found.items():
        row = dict(rows.get(name, {}))
        group, split = row.pop("group", ""), row.pop("split", "")
        labels = {key.removeprefix("label_"): value for key, value in row.items() if value}
        yield Source(
            "frames" if name == "." else name,
            video=tree[name] if name in videos else None,
            pictures=() if name in videos else members(tree, names),
            group=f"own/{group or name}",
            split=split,
            labels=labels,
            boxes=None if name in videos else _boxes(names, boxes),
        )


def _rows(tree: Tree, found: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Rows of `labels.csv` by the source they name: by its path, or its name if no other has it."""
    if "labels.csv" not in tree:
        return {}
    member = tree["labels.csv"]
    table = read_table(member)
    column = next((name for name in _NAMES if table and name in table[0]), None)
    if column is None:
        raise CorpusError(
            f"{member} has no column that names the videos; call it one of {', '.join(_NAMES)}."
        )
    short: dict[str, list[str]] = {}
    for name in found:
        for key in {name, PurePosixPath(name).name, PurePosixPath(name).stem}:
            short.setdefault(key, []).append(name)
    rows: dict[str, dict[str, str]] = {}
    lone = []
    for row in table:
        key = row.pop(column).replace("\\", "/").removeprefix("./").rstrip("/")
        matches = [key] if key in found else short.get(key, [])
        if len(matches) > 1:
            raise CorpusError(
                f"{member} has the row {key}, which may be {matches[0]} or {matches[1]}; write the "
                "whole path."
            )
        if not matches:
            lone.append(key)
        elif rows.setdefault(matches[0], row) != row:
            raise CorpusError(f"{member} has {key} twice, with other labels; delete a row.")
    note_unmatched(tree, [*rows, *lone], found, "video")
    return rows


def _coco(tree: Tree) -> dict[str, list[Box]]:
    """Boxes of COCO files that lie in the top folder."""
    boxes: dict[str, list[Box]] = {}
    for name in tree.names(suffixes={".json"}):
        if "/" not in name and _is_coco(tree[name]):
            boxes.update(read_coco(tree[name]))
    return boxes


def _is_coco(member: Member) -> bool:
    content = read_json(member)
    return isinstance(content, dict) and "images" in content


def _boxes(names: list[str], boxes: Mapping[str, list[Box]]) -> dict[int, list[Box]] | None:
    """Boxes by frame, if the COCO file lists every frame; by path, or else by name."""
    found = [boxes.get(name, boxes.get(PurePosixPath(name).name)) for name in names]
    if all(entry is None for entry in found):
        return None
    if any(entry is None for entry in found):
        absent = names[found.index(None)]
        raise CorpusError(
            f"{absent} is not among the pictures of the COCO file beside it, though others of its "
            "folder are; list it there, without boxes if it has none."
        )
    return {index: entry for index, entry in enumerate(found) if entry}


OWN_FOLDER = Adapter(
    "own_folder",
    "videos, or folders of frames, at any depth, and labels.csv if there are labels",
    find,
)
