"""HyperKvasir (Borgli et al. 2020): labelled videos, and labelled and segmented stills."""

from collections.abc import Iterator, Mapping

from endofm.data.corpus.adapters.common import by_stem, check_columns, note_unmatched, stem
from endofm.data.corpus.adapters.kvasir_seg import json_boxes
from endofm.data.corpus.labels import read_table
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree

_ORGANS = {"upper-gi-tract": "upper gi", "lower-gi-tract": "lower gi"}


def find_videos(tree: Tree) -> Iterator[Source] | None:
    """Videos, with the labels of video-labels.csv and of the folders that they lie in."""
    videos = tree.videos()
    tables = [name for name in tree.names(suffixes={".csv"}) if stem(name) == "video-labels"]
    if not videos or not (tables or any(organ in name for name in videos for organ in _ORGANS)):
        return None
    return _videos(tree, videos, tables)


def _videos(tree: Tree, videos: list[str], tables: list[str]) -> Iterator[Source]:
    rows = {}
    for table in tables:
        found = read_table(tree[table])
        check_columns(tree[table], found, "Video file", "Organ")
        rows.update({stem(row["Video file"]): row for row in found})
    if rows:
        note_unmatched(tree, rows, (stem(name) for name in videos), "video")
    for name in videos:
        labels = {**_folders(name, "labeled-videos"), **_row(rows.get(stem(name), {}))}
        group = f"hyper_kvasir/{stem(name)}"
        yield Source(name, video=tree[name], group=group, labels=labels)


def _row(row: Mapping[str, str]) -> dict[str, str]:
    if not row:
        return {}
    values = [v.lower() for k, v in row.items() if k.startswith("Finding") and v]
    labels = {"organ": row["Organ"].lower()}
    return {**labels, "finding": ";".join(dict.fromkeys(values))} if values else labels


def _folders(name: str, top: str) -> dict[str, str]:
    """`<top>/<organ>/<category>/<finding>/<file>`, as far as it is there."""
    parts = name.split("/")[:-1]
    parts = parts[parts.index(top) + 1 :] if top in parts else parts
    start = next((i for i, part in enumerate(parts) if part in _ORGANS), None)
    if start is None:
        return {}
    names = ("organ", "category", "finding")
    return {k: _ORGANS.get(v, v) for k, v in zip(names, parts[start:], strict=False)}


def find_stills(tree: Tree) -> Iterator[Source] | None:
    """Stills by class, with the masks and boxes of those that are segmented too."""
    classes = [
        name for name in tree.pictures() if any(f"/{organ}/" in f"/{name}" for organ in _ORGANS)
    ]
    segmented = [name for name in tree.pictures() if "segmented-images/images/" in name]
    return _stills(tree, classes, segmented) if classes or segmented else None


def _stills(tree: Tree, classes: list[str], segmented: list[str]) -> Iterator[Source]:
    masks = by_stem(tree, (n for n in tree.pictures() if "segmented-images/masks/" in n))
    boxes: dict[str, list[Box]] = {}
    for name in tree.names(suffixes={".json"}):
        if "bounding-boxes" in name:
            boxes.update(json_boxes(tree[name]))
    seen: set[str] = set()
    for name in classes:
        seen.add(stem(name))
        yield _still(tree, name, _folders(name, "labeled-images"), masks, boxes)
    # The segmented ones are copies of labelled ones, unless only they were fetched.
    labels = {"organ": "lower gi", "category": "pathological-findings", "finding": "polyps"}
    for name in segmented:
        if stem(name) not in seen:
            yield _still(tree, name, labels, masks, boxes)


def _still(
    tree: Tree,
    name: str,
    labels: Mapping[str, str],
    masks: Mapping[str, Member],
    boxes: Mapping[str, list[Box]],
) -> Source:
    key = stem(name)
    return Source(
        name,
        pictures=[tree[name]],
        group=f"hyper_kvasir/{key}",
        labels=labels,
        masks=[masks[key]] if key in masks else (),
        boxes={0: boxes[key]} if key in boxes else None,
    )


HYPER_KVASIR_VIDEOS = Adapter(
    "hyper_kvasir_videos",
    "labeled-videos/<organ>/<category>/<finding>/*.avi with video-labels.csv",
    find_videos,
    {"videos": 374},
)
HYPER_KVASIR_LABELLED = Adapter(
    "hyper_kvasir_labelled",
    "labeled-images/<organ>/<category>/<finding>/*.jpg, and segmented-images/{images,masks}/*.jpg "
    "with bounding-boxes.json",
    find_stills,
    {"sources": 10_662},
)
