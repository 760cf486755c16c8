"""What adapters yield and the engine cuts: sources, their labels, boxes and masks."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Self

from endofm.data.corpus.tree import Member, Tree
from endofm.data.manifests.manifest import Segment
from endofm.data.places import leads_out
from endofm.errors import CorpusError


@dataclass(frozen=True)
class Box:
    """A box in a frame of a source: inclusive corners in its pixels, counted from 0."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""

    @classmethod
    def of(cls, corners: Iterable[float], label: str = "") -> Self:
        """From x1, y1, x2, y2."""
        x1, y1, x2, y2 = corners
        return cls(x1, y1, x2, y2, label)


@dataclass(frozen=True)
class Stretch:
    """Frames `start` to `stop` (excluded) of a source, and what is true of them."""

    start: int
    stop: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A video, or pictures in the order shown, with all that the download says of it."""

    name: str
    """Names it within its dataset, and its clips in the corpus: `train/case1`."""
    video: Member | None = None
    """The video; `None`: `pictures`."""
    pictures: Sequence[Member] = ()
    """The frames, in order."""
    fps: float | None = None
    """Pictures a second, where something tells it."""
    group: str = ""
    """What must not be divided between splits; the engine puts the dataset before it."""
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stretches: Sequence[Stretch] = ()
    """Labels of frames, as stretches in rising order that don't overlap."""
    masks: Sequence[Member] = ()
    """One for every frame, or none at all."""
    boxes: Mapping[int, Sequence[Box]] | None = None
    """Boxes by frame; `None`: not labelled, which is not the same as no box."""
    box_slack: float = 2.0
    """So many pixels may a box reach beyond the frame, where it is cut; farther is a fault.

    Tools write inclusive and exclusive corners, from 0 and from 1: that much is no fault.
    """

    def __post_init__(self) -> None:
        """Refuse a name that leads out of the corpus, where clips are written and deleted by it."""
        if leads_out(self.name) or not PurePosixPath(self.name).parts:
            raise CorpusError(
                f"The download names a source {self.name[:200]!a}, which leads out of its folder; "
                "correct the folder or the annotation that is called so, or fetch it again."
            )

    @property
    def fingerprint(self) -> str:
        """Changes with what the written clips depend on; not with labels, groups and splits."""
        members = [self.video] if self.video else list(self.pictures)
        files = [(member.name, member.size) for member in [*members, *self.masks]]
        text = repr((self.name, self.fps, files, sorted((self.boxes or {}).items())))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Adapter:
    """How one source dataset is understood."""

    name: str
    """As in `--dataset` and the name of its card."""
    layout: str
    """The folder expected after unpacking, in a few words for messages."""
    find: Callable[[Tree], Iterator[Source] | None]
    """All sources in a fixed order; `None` where the tree is not laid out like that."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """`sources`, `frames` (of pictures) or `videos` that a whole download has, where known."""
    more_manifests: Callable[[Sequence[Segment]], Mapping[str, Sequence[Segment]]] = lambda _: {}
    """Manifests by name that are written beside the main one, made of its clips."""


def runs(values: Sequence[Mapping[str, str]]) -> list[Stretch]:
    """Labels of all frames as the longest stretches over which they stay the same."""
    starts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [Stretch(start, stop, values[start]) for start, stop in pairwise(starts) if stop > start]


def clip_bounds(num_frames: int, fps: float, clip_seconds: float | None) -> list[tuple[int, int]]:
    """Clips end to end; the last one takes the remainder, and a shorter source is one clip."""
    if clip_seconds is None:
        return [(0, num_frames)]
    assert not math.isnan(fps)
    length = max(1, round(clip_seconds * fps))
    starts = [number * length for number in range(max(1, num_frames // length))]
    return list(pairwise([*starts, num_frames]))
