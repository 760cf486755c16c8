"""Leaks among the clips of manifests: shared content, and groups that lie in two splits."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from endofm.data.checks.fingerprint import THUMBS_PER_SECOND
from endofm.data.checks.fingerprint_store import Store
from endofm.data.leakage.index import Clips
from endofm.data.leakage.known import Leak
from endofm.data.leakage.match import Match
from endofm.data.leakage.pictures import WHOLE
from endofm.data.leakage.search import Progress, search
from endofm.data.manifests.manifest import Segment

_ANCHORS_OF_FRAMES = 2
"""Every how many frames of a folder, whose rate nobody knows, one is put into the tables."""
_KEPT = 4096  # clips whose pictures are kept in memory


@dataclass(frozen=True)
class Member:
    """A clip with a fingerprint, and the manifest it is of."""

    manifest: Path
    segment: Segment
    content: str
    """Hash of its frames."""
    fps: float
    """Frames a second, or `nan`."""
    thumb_step: int
    """Frames from one of its small pictures to the next."""


@dataclass
class Leaks:
    """What was found: pairs of clips, each as its leak."""

    pairs: list[tuple[Member, Member, Leak]] = field(default_factory=list)
    num_screens: int = 0
    """Pictures that are like too many others; they weren't compared with them."""


def find_leaks(
    trained: Sequence[Member],
    held_out: Sequence[Member] | None,
    store: Store,
    progress: Progress | None = None,
) -> Leaks:
    """Clips of `trained` that share content with clips of `held_out`; `None`: among themselves.

    Clips of one group of one manifest are not compared by content. Among themselves, a group that
    lies in two splits is a leak too.
    """
    is_within = held_out is None
    others = trained if held_out is None else held_out
    found = Leaks()
    exact = set()
    for one, other in _equal(trained, held_out):
        exact.add((one, other))
        first, second = trained[one], others[other]
        found.pairs.append((first, second, _leak(first, second, "exact", None)))
    groups = _Groups()
    first_clips = _clips(trained, groups, store)
    second_clips = None if held_out is None else _clips(held_out, groups, store)
    near = search(first_clips, second_clips, progress)
    found.num_screens = near.num_screens
    for duplicate in near.duplicates:
        if (duplicate.first, duplicate.second) not in exact:
            first, second = trained[duplicate.first], others[duplicate.second]
            found.pairs.append((first, second, _leak(first, second, "near", duplicate.match)))
    if is_within:
        found.pairs += list(_divided_groups(trained))
    return found


def crosses_splits(first: Member, second: Member) -> bool:
    """Whether one of two clips may be trained on while the other is held out."""
    return first.manifest != second.manifest or first.segment.split != second.segment.split


def turned(leak: Leak, first: Member, second: Member) -> Leak:
    """The same leak for the list of the other clip's manifest."""
    same = first.manifest == second.manifest
    one, other = leak.splits.split("/")
    return Leak(
        clip=leak.against,
        against=leak.clip,
        manifest="" if same else str(first.manifest.resolve()),
        kind=leak.kind,
        correlation=leak.correlation,
        frames=leak.against_frames,
        against_frames=leak.frames,
        change=leak.change,
        splits=f"{other}/{one}",
    )


class _Groups:
    """A number for each group of each manifest."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Path, str], int] = {}

    def number(self, member: Member) -> int:
        key = (member.manifest, member.segment.group or member.segment.path)
        return self._numbers.setdefault(key, len(self._numbers))


def _clips(members: Sequence[Member], groups: _Groups, store: Store) -> Clips:
    @lru_cache(maxsize=_KEPT)
    def thumbs(number: int) -> npt.NDArray[np.uint8]:
        return store.make(members[number].segment).thumbs

    return Clips(
        [groups.number(member) for member in members],
        [_ANCHORS_OF_FRAMES if math.isnan(member.fps) else THUMBS_PER_SECOND for member in members],
        thumbs,
    )


def _equal(
    trained: Sequence[Member], held_out: Sequence[Member] | None
) -> Iterator[tuple[int, int]]:
    """Pairs whose decoded frames are equal to the last bit, of different groups."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, member in enumerate(trained):
        places[member.content].append(number)
    for number, member in enumerate(trained if held_out is None else held_out):
        for other in places.get(member.content, ()):
            first = trained[other]
            is_one_group = (
                first.manifest == member.manifest and first.segment.group == member.segment.group
            )
            if not is_one_group and (held_out is not None or other < number):
                yield other, number


def _divided_groups(members: Iterable[Member]) -> Iterator[tuple[Member, Member, Leak]]:
    """For each group in several splits, its first clips of two of them."""
    firsts: dict[tuple[Path, str], dict[str, Member]] = defaultdict(dict)
    for member in members:
        firsts[member.manifest, member.segment.group].setdefault(member.segment.split, member)
    for splits in firsts.values():
        first, *rest = splits.values()
        for other in rest:
            yield first, other, _leak(first, other, "group", None)


def _leak(first: Member, second: Member, kind: str, match: Match | None) -> Leak:
    same = first.manifest == second.manifest
    changes = []
    if match is not None and match.is_mirrored:
        changes.append("mirrored")
    if match is not None and match.crop != WHOLE:
        changes.append(f"cropped to {match.crop.side:.0%}")
    return Leak(
        clip=first.segment.name,
        against=second.segment.name,
        manifest="" if same else str(second.manifest.resolve()),
        kind=kind,
        correlation=1.0 if match is None else match.correlation,
        frames="" if match is None else _frames(match.first, first),
        against_frames="" if match is None else _frames(match.second, second),
        change=", ".join(changes),
        splits=f"{first.segment.split}/{second.segment.split}",
    )


def _frames(thumbs: tuple[int, int], member: Member) -> str:
    """First and last shared frame, counted from the clip's start."""
    return f"{thumbs[0] * member.thumb_step}-{thumbs[1] * member.thumb_step}"
