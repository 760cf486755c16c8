"""CVC-ClinicVideoDB (Angermann et al. 2017): colonoscopy frames of 18 videos with masks."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import masks_of, members, stem
from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.tree import Tree

_MASK = re.compile(r"[_-](mask|polyp|gt)$", re.IGNORECASE)
_FOLDER = re.compile(r"(?:^|/)(images|masks|masks?_?png)(?=/|$)", re.IGNORECASE)


def find(tree: Tree) -> Iterator[Source] | None:
    """Folders of frames, masks beside them (`1_1_mask.png`) or in a folder `masks`."""
    frames: dict[str, list[str]] = {}
    masks: dict[str, dict[str, str]] = {}
    for name in tree.pictures():
        folder = name.rpartition("/")[0]
        video = _FOLDER.sub("", folder).strip("/") or folder
        is_mask = bool(_MASK.search(stem(name))) or "mask" in folder.lower()
        if is_mask:
            masks.setdefault(video, {})[_MASK.sub("", stem(name))] = name
        else:
            frames.setdefault(video, []).append(name)
    has_videos = any(re.search(r"\d", video.rpartition("/")[2]) for video in frames)
    return _sources(tree, frames, masks) if has_videos and masks else None


def _sources(
    tree: Tree, frames: dict[str, list[str]], masks: dict[str, dict[str, str]]
) -> Iterator[Source]:
    for video, names in frames.items():
        found = {key: tree[name] for key, name in masks.get(video, {}).items()}
        is_test = "test" in video.lower()
        yield Source(
            video,
            pictures=members(tree, names),
            group=f"cvc_clinicvideodb/{'test' if is_test else 'train'}/{video.rpartition('/')[2]}",
            split="test" if is_test else "train",
            masks=masks_of(tree, video, names, found),
        )


CVC_CLINICVIDEODB = Adapter(
    "cvc_clinicvideodb",
    "CVC-VideoClinicDBtrain_valid/1/1_1.png with 1_1_mask.png, and so on for 18 videos",
    find,
)
