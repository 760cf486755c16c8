"""KUMC / PolypsSet (Li et al. 2021): frames of polyps with VOC boxes, adenoma or hyperplasia."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from endofm.data.corpus.adapters.common import by_stem, members, stem
from endofm.data.corpus.labels import known, read_voc
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Member, Tree
from endofm.data.video.frames import IMAGE_SUFFIXES, natural_key

_SPLITS = {"train2019": "train", "val2019": "val", "test2019": "test"}
_LESIONS = {"adenomatous": "adenoma", "adenoma": "adenoma", "ad": "adenoma"} | {
    "hyperplastic": "hyperplastic",
    "hyperplasic": "hyperplastic",
    "hp": "hyperplastic",
    "na": "hyperplastic",
}

Labelled = tuple[str, list[Box]]
"""A picture's name and its boxes."""


def find(tree: Tree) -> Iterator[Source] | None:
    """`Image` beside `Annotation` in the splits: folders of videos, or all frames in one."""
    base = next((b for b in map(tree.base, _SPLITS) if b is not None), None)
    return None if base is None else _sources(tree, base)


def _sources(tree: Tree, base: str) -> Iterator[Source]:
    for folder, split in _SPLITS.items():
        images, annotations = f"{base}{folder}/Image", f"{base}{folder}/Annotation"
        for place, names in tree.folders_of_pictures(images).items():
            video = place.removeprefix(images).strip("/")
            texts = by_stem(tree, tree.names(f"{annotations}/{video}".rstrip("/"), {".xml"}))
            _note(tree, place, names, texts)
            for name, frames in _videos(tree, video, names, texts).items():
                yield _source(tree, split, name, frames)


def _videos(
    tree: Tree, video: str, names: list[str], texts: Mapping[str, Member]
) -> dict[str, list[Labelled]]:
    """Frames by video, in order.

    In the folder that mixes the frames of all videos, only the annotation tells from which video a
    frame came and where it stood in it.
    """
    found: dict[str, list[tuple[str, Labelled]]] = {}
    for name in names:
        if stem(name) not in texts:
            continue
        boxes, about = read_voc(texts[stem(name)])
        boxes = [
            Box(
                b.x1,
                b.y1,
                b.x2,
                b.y2,
                _LESIONS[known(texts[stem(name)], "lesion", b.label.lower(), _LESIONS)],
            )
            for b in boxes
        ]
        origin, order = (video, name) if video else _origin(about)
        found.setdefault(origin, []).append((order, (name, boxes)))
    return {
        origin: [labelled for _, labelled in sorted(frames, key=lambda pair: natural_key(pair[0]))]
        for origin, frames in found.items()
    }


def _origin(about: Mapping[str, str]) -> tuple[str, str]:
    """The video and the place in it, from where the frame lay when it was annotated."""
    path = PurePosixPath(about.get("path", "").replace("\\", "/"))
    is_picture = path.suffix.lower() in IMAGE_SUFFIXES
    folder = path.parent if is_picture else path
    video = re.sub(r"[^\w.-]+", "-", "/".join(folder.parts[-2:])).strip("-")
    video = "" if set(video) <= {"."} else video
    folder_only = re.sub(r"[^\w.-]+", "-", about.get("folder", "")).strip(".-")
    return video or folder_only or "unknown", about.get("filename", "")


def _source(tree: Tree, split: str, video: str, frames: list[Labelled]) -> Source:
    lesions = {box.label for _, boxes in frames for box in boxes}
    labels = {"polyp": "polyp"} | ({"lesion": ";".join(sorted(lesions))} if lesions else {})
    name = f"{split}/{video}"
    return Source(
        name,
        pictures=members(tree, (picture for picture, _ in frames)),
        group=f"kumc/{name}",
        split=split,
        labels=labels,
        boxes={index: boxes for index, (_, boxes) in enumerate(frames) if boxes},
    )


def _note(tree: Tree, place: str, names: list[str], texts: Mapping[str, Member]) -> None:
    """Say what has no partner; frames without an annotation are left out."""
    stems = {stem(name) for name in names}
    for what, lone in (
        ("frames without annotation", stems - set(texts)),
        ("annotations without frame", set(texts) - stems),
    ):
        if lone:
            tree.left_out.append(
                f"{place} in {tree.root} has {len(lone)} {what} (the first: {min(lone)}); they are "
                "left out."
            )


KUMC = Adapter(
    "kumc",
    "PolypsSet/train2019, val2019 and test2019, each with Image and Annotation",
    find,
)
