"""What finding leaks costs as corpora grow: `python -m tests.leaks.scale 1000 10000 100000`.

Clips are made up: two seconds of a camera moving over a patch of smooth noise, lit from the middle,
behind the border of one of three endoscopes; 16 pictures each. One in a hundred is a mirrored,
darker copy of a stretch of another. Nothing is decoded, so the figures are those of the search
alone: seconds of one processor, of which making the pictures up takes the second figure.
"""

import resource
import sys
import time

import cv2
import numpy as np

from endofm.data.checks.fingerprint import SIDE
from endofm.data.leakage.index import Clips
from endofm.data.leakage.search import search

NUM_PICTURES = 16
_CANVAS = 80


def _borders() -> list[np.ndarray]:
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    octagon = (np.abs(rows) + np.abs(columns) < 21) & (np.abs(columns) < 14)
    return [np.ones((SIDE, SIDE)), rows**2 + columns**2 < 15.5**2, octagon]


_BORDERS = [border.astype(np.float32) for border in _borders()]
_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
_LIGHT = (np.exp(-(_ROWS**2 + _COLUMNS**2) / 500)).astype(np.float32)


def made_up(number: int) -> np.ndarray:
    """Pictures uint8 [16, 32, 32] of clip `number`."""
    if number % 100 == 99:
        source = made_up(number - 50)
        return np.ascontiguousarray((source[3:13, :, ::-1] * 0.85).astype(np.uint8))
    rng = np.random.default_rng(number)
    canvas = np.full((_CANVAS, _CANVAS), 130, np.float32)
    for cells, strength in ((5, 40), (10, 25), (20, 18), (40, 10)):
        noise = rng.normal(size=(cells, cells)).astype(np.float32) * strength
        canvas += cv2.resize(noise, (_CANVAS, _CANVAS), interpolation=cv2.INTER_CUBIC)
    ends = rng.uniform(0, _CANVAS - SIDE - 1, (2, 2))
    at = ends[0] + np.linspace(0, 1, NUM_PICTURES)[:, None] * (ends[1] - ends[0]) * 0.4
    pictures = np.stack(
        [
            cv2.getRectSubPix(canvas, (SIDE, SIDE), (x + SIDE / 2, y + SIDE / 2))
            for x, y in at.tolist()
        ]
    )
    pictures = pictures * _LIGHT * _BORDERS[number % 3] + rng.normal(0, 1, pictures.shape)
    return np.clip(pictures, 0, 255).astype(np.uint8)


def measure(num_clips: int) -> str:
    """A row of the table: clips, seconds, memory, what was found."""
    clips = Clips(list(range(num_clips)), [8] * num_clips, made_up)
    some = range(0, num_clips, max(1, num_clips // 500))
    start = time.process_time()
    for number in some:
        made_up(number)
    making = (time.process_time() - start) / len(some) * num_clips
    start = time.process_time()
    found = search(clips)
    seconds = time.process_time() - start
    true = {(number - 50, number) for number in range(99, num_clips, 100)}
    pairs = {(one.first, one.second) for one in found.duplicates}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| {num_clips:,} | {seconds:.0f} s | {3 * making:.0f} s | {peak:.2f} GiB | "
        f"{found.num_compared:,} | {len(true & pairs)} of {len(true)} | {len(pairs - true)} |"
    )


if __name__ == "__main__":
    cv2.setNumThreads(1)
    for size in sys.argv[1:]:
        sys.stdout.write(measure(int(size)) + "\n")
        sys.stdout.flush()
