"""Whether two clips really share frames: pictures laid over each other, in the same order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from endofm.data.leakage.pictures import (
    WHOLE,
    Crop,
    Detail,
    Floats,
    agreement,
    cropped,
    detail,
)

SAME_PICTURE = 0.82
"""Correlation of detail from which two pictures, laid over each other, show the same; how it was
chosen stands in docs/leaks.md."""
FLOOR = 0.5
"""Correlation below which two pictures are not even candidates."""
IN_A_ROW = 0.62
"""The same for pictures of which several follow each other in both clips."""
IN_A_ROW = 3
_REACH = 128  # pictures before and after the best pair that are compared
_STEPS = (0.05, 0.025, 0.0125)  # of the picture's side, in which a crop is moved to fit
_MOVES = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
_SMALLEST = 0.78  # share of the side that a crop keeps at least

Thumbs = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Hit:
    """Where to begin: a picture of a clip, cropped, looks like a picture of another."""

    first: int
    second: int
    crop: Crop
    is_mirrored: bool


@dataclass(frozen=True)
class Match:
    """What two clips share; pictures are counted in their fingerprints."""

    correlation: float
    """Of the shared pictures, the median."""
    num_shared: int
    """Pictures that follow each other in both clips."""
    crop: Crop
    """The part of the first clip's frames that the second shows."""
    is_mirrored: bool
    first: tuple[int, int]
    """First and last shared picture of the first clip."""
    second: tuple[int, int]
    """The same of the second clip."""


def compare(first: Thumbs, second: Thumbs, hit: Hit) -> Match | None:
    """Fit the crop at the hit, then follow both clips from there; `None`: they share nothing."""
    start_first, start_second = max(0, hit.first - _REACH), max(0, hit.second - _REACH)
    one = first[start_first : hit.first + _REACH + 1]
    other = second[start_second : hit.second + _REACH + 1]
    if hit.is_mirrored:
        other = other[:, :, ::-1]
    at_first, at_second = hit.first - start_first, hit.second - start_second
    target = detail(other[at_second][None])
    if agreement(detail(cropped(one[at_first][None], hit.crop)), target)[0, 0] < FLOOR:
        return None
    crop = fit(one[at_first], target, hit.crop)
    alike = agreement(detail(cropped(one, crop)), detail(other))
    pairs = best_alignment(np.maximum(alike - FLOOR, 0))
    correlations = alike[pairs[:, 0], pairs[:, 1]]
    needed = min(IN_A_ROW, len(first), len(second))
    is_same = correlations >= SAME_PICTURE
    if is_same.sum() < needed:
        return None
    pairs = pairs[is_same]
    correlation = float(np.median(correlations[is_same]))
    firsts, seconds = pairs[:, 0] + start_first, pairs[:, 1] + start_second
    return Match(
        correlation=correlation,
        num_shared=len(pairs),
        crop=crop,
        is_mirrored=hit.is_mirrored,
        first=(int(firsts[0]), int(firsts[-1])),
        second=(int(seconds[0]), int(seconds[-1])),
    )


def fit(picture: Thumbs, copy: Detail, start: Crop) -> Crop:
    """Move and scale a crop of `picture` until its detail is most like that of `copy`."""
    best, known = start, {start: _alike(picture, [start], copy)[0]}
    for step in _STEPS:
        while True:
            crops = sorted({_moved(best, move, step) for move in _MOVES} - known.keys())
            known |= zip(crops, _alike(picture, crops, copy), strict=True)
            top = max(crops, key=known.__getitem__, default=best)
            if known[top] <= known[best] + 1e-4:
                break
            best = top
    return best


def _alike(picture: Thumbs, crops: Sequence[Crop], copy: Detail) -> list[float]:
    """Correlation of each crop of a picture with a copy."""
    if not crops:
        return []
    views: Floats = np.concatenate([cropped(picture[None], crop) for crop in crops])
    return [float(found) for found in agreement(detail(views), copy)[:, 0]]


def _moved(crop: Crop, move: tuple[int, int, int], step: float) -> Crop:
    """A crop scaled about its middle and moved, as far as it stays inside."""
    side = min(max(crop.side + move[0] * step, _SMALLEST), 1.0)
    grown = (side - crop.side) / 2
    top, left = (
        round(min(max(start - grown + by * step, 0.0), 1 - side), 6)
        for start, by in ((crop.top, move[1]), (crop.left, move[2]))
    )
    return Crop(side, top, left) if side < 1 else WHOLE


def best_alignment(gains: Floats) -> npt.NDArray[np.int64]:
    """Pairs [k, 2] of pictures, rising in both clips, whose gains sum up to most.

    `gains` [n, m] are at least 0; pairs without gain are left out.
    """
    n, m = gains.shape
    sums = np.zeros((n + 1, m + 1))
    for row in range(n):
        before = sums[row]
        taken = before[:-1] + gains[row]
        sums[row + 1, 1:] = np.maximum.accumulate(np.maximum(before[1:], taken))
    pairs = []
    row, column = n, m
    while row and column:
        if sums[row, column] == sums[row - 1, column]:
            row -= 1
        elif sums[row, column] == sums[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return np.array(pairs[::-1], np.int64).reshape(-1, 2)
