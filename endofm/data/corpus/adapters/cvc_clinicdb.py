"""CVC-ClinicDB (Bernal et al. 2015): 612 frames of 29 sequences, a mask for each ("CVC-12k")."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from endofm.data.corpus.adapters.common import masks_of, members, stem
from endofm.data.corpus.labels import numbers, read_table
from endofm.data.corpus.source import Adapter, Box, Source
from endofm.data.corpus.tree import Tree
from endofm.data.manifests.manifest import Segment
from endofm.errors import CorpusError

# First frame of each sequence, and the one after the last.
_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384),
    *(409, 429, 448, 467, 479, 504, 529, 547, 572, 592, 613),
)
SEQUENCES = tuple(pairwise(_STARTS))
TEST_SEQUENCES = (1, 3, 4, 9, 10, 13, 16, 17, 21)
"""Those of the legacy test list; no other frame of theirs is in train."""

LEGACY_LEAKING = {
    "train": (
        *((104, 23), (529, 18), (448, 19), (26, 25), (343, 21), (178, 22), (429, 19), (200, 6)),
        *((127, 25), (253, 25), (364, 20), (592, 21), (228, 25), (68, 11), (467, 12), (206, 22)),
        *((79, 25), (479, 25), (51, 17), (572, 20)),
    ),
    "test": (
        *((51, 17), (318, 25), (429, 19), (1, 25), (178, 22), (253, 25), (343, 21), (68, 11)),
        (200, 6),
    ),
}
"""First frame and length of the stretches in Endo-FM's lists; 7 of the 9 tested are in train."""


def find(tree: Tree) -> Iterator[Source] | None:
    """`Original` beside `Ground Truth`, or `images` beside `masks`, numbered through."""
    for pictures, masks in (("Original", "Ground Truth"), ("images", "masks")):
        base = tree.base(pictures, masks)
        if base is not None:
            if "PNG/" in f"/{base}" or not _has_both(tree, base, pictures):
                return _sources(tree, f"{base}{pictures}", f"{base}{masks}")
            return _sources(tree, f"{base}PNG/{pictures}", f"{base}PNG/{masks}")
    return None


def _has_both(tree: Tree, base: str, pictures: str) -> bool:
    return bool(tree.pictures(f"{base}PNG/{pictures}"))


def _sources(tree: Tree, pictures: str, masks: str) -> Iterator[Source]:
    frames = {_number(name): name for name in tree.pictures(pictures)}
    truth = {_number(name): tree[name] for name in tree.pictures(masks)}
    boxes = _boxes(tree)
    for number, (first, after) in enumerate(SEQUENCES, 1):
        names = [frames[i] for i in range(first, after) if i in frames]
        if not names:
            continue
        here = [i for i in range(first, after) if i in frames]
        found = {stem(frames[i]): truth[i] for i in here if i in truth}
        extra = [i for i in range(first, after) if i in truth and i not in frames]
        if extra:
            raise CorpusError(
                f"{truth[extra[0]]} is the mask of no picture in {tree.root}; part of the download "
                "is missing."
            )
        yield Source(
            f"seq{number:02d}",
            pictures=members(tree, names),
            group=f"cvc_clinicdb/seq{number:02d}",
            split="test" if number in TEST_SEQUENCES else "train",
            labels={"polyp": "polyp"},
            masks=masks_of(tree, f"seq{number:02d}", names, found),
            boxes={k: boxes[i] for k, i in enumerate(here) if i in boxes} if boxes else None,
        )


def _number(name: str) -> int:
    digits = re.sub(r"\D", "", stem(name))
    if not digits or not 1 <= int(digits) <= 612:
        raise CorpusError(f"{name} has no number from 1 to 612, as CVC-ClinicDB's frames have.")
    return int(digits)


def _boxes(tree: Tree) -> dict[int, list[Box]]:
    """`boxes.csv`, where somebody made one: frame numbers and inclusive corners."""
    found: dict[int, list[Box]] = {}
    for name in tree.names(suffixes={".csv"}):
        if stem(name) == "boxes":
            for row in read_table(tree[name]):
                corners = numbers(tree[name], 0, (row[side] for side in ("x1", "y1", "x2", "y2")))
                found.setdefault(int(row["frame"]), []).append(Box.of(corners, "polyp"))
    return found


def legacy_manifests(clips: Sequence[Segment]) -> dict[str, list[Segment]]:
    """Endo-FM's lists as manifests, for comparison, under names that say that they leak.

    None where a sequence is incomplete or cut into several clips.
    """
    by_group = {clip.group: clip for clip in clips}
    if len(clips) != len(SEQUENCES) or any(
        by_group[f"cvc_clinicdb/seq{number:02d}"].num_frames != after - first
        for number, (first, after) in enumerate(SEQUENCES, 1)
    ):
        return {}
    return {
        f"legacy_leaking_{part}": [_stretch(by_group, part, *item) for item in ranges]
        for part, ranges in LEGACY_LEAKING.items()
    }


def _stretch(clips: Mapping[str, Segment], part: str, start: int, length: int) -> Segment:
    number = next(n for n, (first, after) in enumerate(SEQUENCES, 1) if first <= start < after)
    offset = start - SEQUENCES[number - 1][0]
    clip = clips[f"cvc_clinicdb/seq{number:02d}"]
    return replace(clip, split=part, start_frame=offset, stop_frame=offset + length)


CVC_CLINICDB = Adapter(
    "cvc_clinicdb",
    "Original/1.tif to 612.tif with 'Ground Truth'/1.tif to 612.tif (or PNG/Original, or images "
    "with masks)",
    find,
    {"frames": 612},
    legacy_manifests,
)
