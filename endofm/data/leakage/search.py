"""Near duplicates among clips: the index proposes pairs, a comparison of pictures decides."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from endofm.data.leakage.hashes import CROPS
from endofm.data.leakage.index import Clips, Hits, Index, Ints
from endofm.data.leakage.match import Hit, Match, compare

_TRIED = 3  # hits of a pair of clips that are compared, the nearest first

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Duplicate:
    """Clip `first` of the tables and clip `second` of those that asked share frames."""

    first: int
    second: int
    match: Match


@dataclass
class Found:
    """Near duplicates, and how much work they were."""

    duplicates: list[Duplicate] = field(default_factory=list)
    num_compared: int = 0
    """Pairs of clips whose pictures were compared."""
    num_screens: int = 0
    """Pictures that are like more others than any leak would explain; these were left out."""


def search(first: Clips, second: Clips | None = None, progress: Progress | None = None) -> Found:
    """Pairs of clips of different groups that share frames: of two sets, or within one.

    Group numbers of the two sets name the same groups. `progress` is told what is being done, how
    many clips are done, and of how many.
    """
    if second is None:
        return _one_way(first, first, progress)
    found, back = _one_way(first, second, progress), _one_way(second, first, progress)
    turned = [Duplicate(d.second, d.first, _turned(d.match)) for d in back.duplicates]
    return Found(
        _best(found.duplicates + turned),
        found.num_compared + back.num_compared,
        found.num_screens + back.num_screens,
    )


def _one_way(first: Clips, second: Clips, progress: Progress | None) -> Found:
    """Clips of `second` that show a part or the whole of the frames of clips of `first`."""

    def tell(what: str, total: int) -> Callable[[int], None]:
        return lambda done: progress(what, done, total) if progress is not None else None

    index = Index(first)
    kept = _nearest(list(index.ask(second, tell("looking up", len(second)))), len(second))
    found = Found(num_screens=index.num_screens)
    tried: dict[tuple[int, int], list[Hit]] = defaultdict(list)
    for row in range(len(kept)):
        hit = Hit(
            int(kept.picture[row]),
            int(kept.asking_picture[row]),
            CROPS[kept.crop[row]],
            bool(kept.is_mirrored[row]),
        )
        tried[int(kept.clip[row]), int(kept.asking_clip[row])].append(hit)
    report = tell("comparing", len(tried))
    for number, ((one, other), hits) in enumerate(tried.items()):
        match = _compare(first, second, one, other, hits)
        if match is not None:
            is_turned = first is second and one > other
            pair = (other, one, _turned(match)) if is_turned else (one, other, match)
            found.duplicates.append(Duplicate(*pair))
        report(number + 1)
    found.num_compared = len(tried)
    found.duplicates = _best(found.duplicates)
    return found


def _compare(
    first: Clips, second: Clips, one: int, other: int, hits: Sequence[Hit]
) -> Match | None:
    one_thumbs, other_thumbs = first.thumbs(one), second.thumbs(other)
    for hit in hits:
        match = compare(one_thumbs, other_thumbs, hit)
        if match is not None:
            return match
    return None


def _nearest(chunks: Sequence[Hits], num_asking: int) -> Hits:
    """The nearest few hits of each pair of clips, the nearest first."""
    if not chunks:  # black pictures only
        none = np.zeros(0, np.int64)
        return Hits(none, none, none, none, none, none.astype(bool), none)
    names = ("clip", "picture", "crop", "asking_clip", "asking_picture", "is_mirrored", "distance")
    hits = Hits(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names))
    pair = hits.clip * num_asking + hits.asking_clip
    order = np.lexsort((hits.distance, pair))
    kept = order[_rank(pair[order]) < _TRIED]
    return Hits(*(getattr(hits, name)[kept] for name in names))


def _rank(values: Ints) -> Ints:
    """How often each of the sorted values came before."""
    is_new = np.ones(len(values), bool)
    is_new[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(is_new)
    return np.arange(len(values)) - np.repeat(starts, np.diff([*starts, len(values)]))


def _turned(match: Match) -> Match:
    """The same seen from the other clip; the crop stays that of the clip that shows more."""
    return Match(
        match.correlation,
        match.num_shared,
        match.crop,
        match.is_mirrored,
        match.second,
        match.first,
    )


def _best(duplicates: Sequence[Duplicate]) -> list[Duplicate]:
    """One of each pair, the one with most shared pictures."""
    best: dict[tuple[int, int], Duplicate] = {}
    for found in duplicates:
        key = (found.first, found.second)
        known = best.get(key)
        better = (found.match.num_shared, found.match.correlation)
        if known is None or better > (known.match.num_shared, known.match.correlation):
            best[key] = found
    return [best[key] for key in sorted(best)]
