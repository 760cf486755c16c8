"""Finding pairs of clips that may share frames, at a cost that grows with the clips, not the pairs.

Every clip puts some of its frames, whole and in parts (`CROPS`), into tables of hashes; every clip
asks with all of its frames, as they are and mirrored. A table files a hash under some of its first
64 bits, about as many as tell its entries apart, and a question looks there and where its least
certain bits are turned (multi-probe LSH: Lv et al. 2007). What it finds with most of these 64 bits
alike, and enough of all 128, is a hit: without the other 64, pairs that are alike by chance would
grow with the square of the clips, and comparing them with it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endofm.data.leakage.hashes import (
    ALL_BITS,
    BITS,
    CROPS,
    MIRRORED,
    Codes,
    codes_of,
    describe,
    description_maps,
)
from endofm.data.leakage.pictures import Floats, detail

_TABLES = 10
_TURNED = 2  # least certain bits that are tried both ways
_MAX_DISTANCE = 12  # of the first 64 bits
_MAX_IN_ALL, _LEAST_IN_ALL = 34, 28  # of all 128: in small and in very large tables
_SMALL = 1 << 18  # entries; with twice as many, chance has as many hits if two bits fewer differ
_PER_GROUP = 3  # entries of one group that a place of a table keeps
MAX_SHARING = 300
"""A picture that is at one place of a table with more others than this is a screen, not a leak."""
_SAMPLE = 20_000  # pictures from which the middle of each bit is taken
_FEW = 200  # fewer than this don't tell where the middle is
_BATCH = 4096  # pictures a chunk

Ints = npt.NDArray[np.int64]
Thumbs = Callable[[int], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Clips:
    """Clips to be compared: a number of the group of each, and how its pictures are had.

    Clips of one group are never compared.
    """

    groups: Sequence[int]
    anchor_steps: Sequence[int]
    """Every how many pictures of a clip one is put into the tables."""
    thumbs: Thumbs
    """Pictures uint8 [S, 32, 32] of clip i."""

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Hits:
    """Pictures that are nearly alike, a row each: clip and picture in the tables, and who asked."""

    clip: Ints
    picture: Ints
    crop: Ints
    asking_clip: Ints
    asking_picture: Ints
    is_mirrored: npt.NDArray[np.bool_]
    distance: Ints

    def __len__(self) -> int:
        return len(self.clip)


@dataclass(frozen=True)
class _Table:
    """One table: the places of 64 bits that make its key, sorted keys and the entries there."""

    places: Ints
    keys: npt.NDArray[np.uint32]
    entries: npt.NDArray[np.int32]


class Index:
    """Tables of the hashes of clips."""

    def __init__(self, clips: Clips, seed: int = 0) -> None:
        """Hash the anchors of all clips; pictures are asked for clip by clip and not kept."""
        self._maps = description_maps()
        self._middle, self._spread = self._scale(clips)
        none = np.zeros(0, np.int64)
        codes, owners, pictures = [np.zeros((0, len(CROPS), 2), np.uint64)], [none], [none]
        for numbers, owner, values in _batches(clips, _anchors):
            described = describe(values, self._maps) - self._middle
            codes.append(codes_of(described))
            owners.append(owner)
            pictures.append(numbers)
        self.codes: Codes = np.concatenate(codes).reshape(-1, 2)
        self.clips = np.repeat(np.concatenate(owners), len(CROPS)).astype(np.int32)
        self.pictures = np.repeat(np.concatenate(pictures), len(CROPS)).astype(np.int32)
        self.groups = np.asarray(clips.groups, np.int64)
        self.num_screens = 0
        doublings = max(0.0, float(np.log2(max(1, len(self.codes)) / _SMALL)))
        self.max_distance = max(_LEAST_IN_ALL, round(_MAX_IN_ALL - 2 * doublings))
        rng = np.random.default_rng(seed)
        width = int(np.clip(np.ceil(np.log2(max(2, len(self.codes)))), 12, 30))
        self._tables = [self._table(rng.permutation(BITS)[:width]) for _ in range(_TABLES)]

    def ask(self, clips: Clips, progress: Callable[[int], None] | None = None) -> Iterator[Hits]:
        """Hits of the pictures of `clips`, chunk by chunk; groups are numbered as in the tables."""
        whole = self._maps[:ALL_BITS]
        groups = np.asarray(clips.groups, np.int64)
        for numbers, owner, values in _batches(clips, _all):
            plain = describe(values, whole)[:, 0]
            for is_mirrored, described in ((False, plain), (True, plain * MIRRORED)):
                found = self._look_up((described - self._middle) / self._spread, groups[owner])
                entry, row, distance = found
                yield Hits(
                    self.clips[entry].astype(np.int64),
                    self.pictures[entry].astype(np.int64),
                    entry % len(CROPS),
                    owner[row],
                    numbers[row],
                    np.full(len(entry), is_mirrored),
                    distance,
                )
            if progress is not None:
                progress(int(owner[-1]) + 1)

    def _scale(self, clips: Clips) -> tuple[Floats, Floats]:
        """The middle and spread of each number of a description, from clips all over the corpus."""
        step = max(1, len(clips) // 2000)
        whole = self._maps[:ALL_BITS]
        found, count = [], 0
        some = Clips(
            clips.groups[::step], clips.anchor_steps[::step], lambda i: clips.thumbs(i * step)
        )
        for _, _, values in _batches(some, _anchors):
            found.append(describe(values, whole)[:, 0])
            count += len(values)
            if count >= _SAMPLE:
                break
        described = np.concatenate(found) if found else np.zeros((0, ALL_BITS), np.float32)
        if len(described) < _FEW:  # may be one picture, which must not be the middle
            return np.zeros(ALL_BITS, np.float32), np.ones(ALL_BITS, np.float32)
        # Mirrored pictures are as likely as others, so both decide where the middle is.
        both = np.concatenate([described, described * MIRRORED])
        return np.median(both, 0).astype(np.float32), (both.std(0) + 1e-3).astype(np.float32)

    def _table(self, places: Ints) -> _Table:
        keys = _keys(self.codes[:, 0], places)
        groups = self.groups[self.clips]
        order = np.lexsort((groups, keys))
        sorted_keys, sorted_groups = keys[order], groups[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (sorted_keys[1:] != sorted_keys[:-1]) | (
            sorted_groups[1:] != sorted_groups[:-1]
        )
        starts = np.flatnonzero(is_new)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        kept = rank < _PER_GROUP
        return _Table(places, sorted_keys[kept], order[kept].astype(np.int32))

    def _look_up(self, certainty: Floats, groups: Ints) -> tuple[Ints, Ints, Ints]:
        """Entries of other groups near the asking rows: entry, row and distance of each pair."""
        codes = codes_of(certainty)
        pairs = []
        is_screen = np.zeros(len(codes), bool)
        for table in self._tables:
            probes = _probes(codes[:, 0], np.abs(certainty[:, table.places]), table.places)
            lows = np.searchsorted(table.keys, probes, "left")
            counts = np.searchsorted(table.keys, probes, "right") - lows
            is_crowded = counts > MAX_SHARING
            is_screen |= is_crowded.any(1)
            counts[is_crowded] = 0
            rows, ranks = _expand(counts.reshape(-1))
            entries = table.entries[lows.reshape(-1)[rows] + ranks]
            rows //= probes.shape[1]
            is_other = self.groups[self.clips[entries]] != groups[rows]
            rows, entries = rows[is_other], entries[is_other]
            low = self.codes[entries, 0] ^ codes[rows, 0]
            is_near = np.bitwise_count(low) <= _MAX_DISTANCE
            rows, entries = rows[is_near], entries[is_near]
            is_near = _distance(self.codes[entries], codes[rows]) <= self.max_distance
            pairs.append(rows[is_near] * len(self.codes) + entries[is_near])
        self.num_screens += int(is_screen.sum())
        rows, entries = np.divmod(np.unique(np.concatenate(pairs)), len(self.codes))
        return entries, rows, _distance(self.codes[entries], codes[rows])


def _distance(some: Codes, others: Codes) -> Ints:
    """How many of 128 bits differ, row by row."""
    return np.asarray(np.bitwise_count(some ^ others).sum(-1), np.int64)


def _keys(codes: Codes, places: Ints) -> npt.NDArray[np.uint32]:
    """The bits at `places`, side by side."""
    keys = np.zeros(codes.shape, np.uint32)
    for place in places:
        keys = (keys << np.uint32(1)) | ((codes >> np.uint64(place)) & np.uint64(1)).astype(
            np.uint32
        )
    return keys


def _probes(codes: Codes, certainty: Floats, places: Ints) -> npt.NDArray[np.uint32]:
    """Keys to look under: uint32 [n, 4], the least certain two bits either way."""
    weakest = np.argpartition(certainty, _TURNED, axis=1)[:, :_TURNED]
    masks = (np.uint32(1) << (len(places) - 1 - weakest).astype(np.uint32)).astype(np.uint32)
    keys = _keys(codes, places)[:, None]
    first, second = masks[:, :1], masks[:, 1:]
    return np.concatenate([keys, keys ^ first, keys ^ second, keys ^ first ^ second], axis=1)


def _expand(counts: npt.NDArray[np.intp]) -> tuple[Ints, Ints]:
    """For counts [2, 0, 1]: which row each item is of, [0, 0, 2], and its rank, [0, 1, 0]."""
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - starts[rows]


def _anchors(num_pictures: int, step: int) -> Ints:
    """Pictures of a clip that are put into the tables, evenly spread."""
    return np.arange(min(step, num_pictures) // 2, num_pictures, step)


def _all(num_pictures: int, step: int) -> Ints:
    return np.arange(num_pictures)


def _batches(
    clips: Clips, choose: Callable[[int, int], Ints]
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Numbers of chosen pictures, their clips and their detail [n, 32, 32], many at a time.

    Pictures without detail (black, of one colour) are left out: they look like any other such.
    """
    numbers: list[Ints] = []
    owners: list[Ints] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    count = 0
    for clip in range(len(clips)):
        thumbs = clips.thumbs(clip)
        chosen = choose(len(thumbs), clips.anchor_steps[clip])
        numbers.append(chosen)
        owners.append(np.full(len(chosen), clip))
        pictures.append(thumbs[chosen])
        count += len(chosen)
        if count >= _BATCH or clip == len(clips) - 1:
            number, owner = np.concatenate(numbers), np.concatenate(owners)
            seen = detail(np.concatenate(pictures))
            shows = has_detail(seen.values, seen.inside)
            if shows.any():
                yield number[shows], owner[shows], seen.values[shows]
            numbers, owners, pictures, count = [], [], [], 0


def has_detail(values: Floats, inside: Floats) -> npt.NDArray[np.bool_]:
    """Whether enough of a picture is inside its border, and shows something."""
    return np.asarray((inside.mean((1, 2)) > 0.25) & (np.square(values).mean((1, 2)) > 0.02))
