"""Kvasir-SEG (Jha et al. 2020): stills of polyps with masks and boxes."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import cv2
import numpy as np

from endofm.data.corpus.adapters.common import by_stem, note_unmatched, stem
from endofm.data.corpus.labels import numbers, read_json, read_yolo
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree
from endofm.errors import CorpusError, VideoError


def find(tree: Tree) -> Iterator[Source] | None:
    """`images` beside `masks`, `kavsir_bboxes.json` or YOLO `labels`."""
    base = tree.base("images", "masks")
    if base is None:
        return None
    pictures = tree.pictures(f"{base}images")
    if any("/" in name.removeprefix(f"{base}images/") for name in pictures):
        return None  # sequences in folders, no stills
    return _sources(tree, base, pictures)


def _sources(tree: Tree, base: str, pictures: list[str]) -> Iterator[Source]:
    masks = by_stem(tree, tree.pictures(f"{base}masks"))
    texts = by_stem(tree, tree.names(f"{base}labels", {".txt"}))
    boxes: dict[str, list[Box]] = {}
    for name in tree.names(suffixes={".json"}):
        if stem(name) in ("kavsir_bboxes", "kvasir_bboxes", "bounding-boxes"):
            boxes.update(json_boxes(tree[name]))
    note_unmatched(tree, masks, map(stem, pictures), "picture")
    for name in pictures:
        key = stem(name)
        found = boxes.get(key)
        if found is None and key in texts:
            found = read_yolo(texts[key], picture_size(tree[name]), ("polyp",))
        yield Source(
            PurePosixPath(name).name,
            pictures=[tree[name]],
            group=f"kvasir_seg/{key}",
            labels={"polyp": "polyp"},
            masks=[masks[key]] if key in masks else (),
            boxes=None if found is None else {0: found},
        )


def json_boxes(member: Member) -> dict[str, list[Box]]:
    """Simula's JSON: stem -> size and boxes with inclusive corners."""
    found = {}
    for name, entry in read_json(member).items():
        if not isinstance(entry, dict) or "bbox" not in entry:
            raise CorpusError(f"{member} has no 'bbox' for {name}; fetch it again.")
        found[name] = [
            Box.of(
                numbers(member, 0, (box[side] for side in ("xmin", "ymin", "xmax", "ymax"))),
                str(box.get("label", "")),
            )
            for box in entry["bbox"]
        ]
    return found


def picture_size(member: Member) -> tuple[int, int]:
    """Height and width of a picture."""
    picture = cv2.imdecode(np.frombuffer(member.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise VideoError(f"{member} is not a whole picture; fetch it again.")
    return picture.shape[0], picture.shape[1]


KVASIR_SEG = Adapter(
    "kvasir_seg",
    "images/*.jpg with masks/*.jpg and kavsir_bboxes.json",
    find,
    {"sources": 1000},
)
