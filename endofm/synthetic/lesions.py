"""Lesions of the lung that come in pairs: alike in a slice, unlike in several.

| look in one slice | kinds |
| --- | --- |
| disc | `nodule`, a ball; `plug`, a bronchus full of mucus that runs through many slices |
| ring | `cavity`, a hollow ball; `bronchiectasis`, a wide airway with a wall |
| dots | `miliary`, small balls by themselves; `tree_in_bud`, the twigs and buds of one tree |

Radii, walls and densities of a pair are drawn alike.
"""

import math

import numpy as np
import scipy

from endofm.synthetic.chest import Chest, FloatArray, Grid, Point, branch

LOOKS = {
    "nodule": "disc",
    "plug": "disc",
    "cavity": "ring",
    "bronchiectasis": "ring",
    "miliary": "dots",
    "tree_in_bud": "dots",
}
"""What each kind looks like in a slice that cuts it."""
KINDS = tuple(LOOKS)
_CLEAR_MM = 34.0  # how far from the edge of a lung a lesion's middle lies, where there is room


def paint_lesions(
    grid: Grid, chest: Chest, share: FloatArray, kind: str, rng: np.random.Generator
) -> None:
    """Paint two to four lesions of a kind into the lungs; `share` tells where lung is."""
    middles = _places(grid, share, rng, 4)
    before = grid.units.copy()
    density = rng.uniform(15, 60)
    for middle in middles[: int(rng.integers(2, 5))]:
        if LOOKS[kind] == "dots":
            _paint_dots(grid, middle, kind, rng, density)
            continue
        radius, wall = rng.uniform(12, 17) * chest.size, rng.uniform(4.5, 6.5)
        start = stop = middle
        if kind in ("plug", "bronchiectasis"):
            half = _tilted(rng) * rng.uniform(38, 55) * chest.size
            start, stop = middle - half, middle + half
        grid.capsule(start, stop, radius, density)
        if LOOKS[kind] == "ring":
            grid.capsule(start, stop, radius - wall, -960)
    grid.keep(before, np.clip(share * 1.6, 0, 1))


def _paint_dots(
    grid: Grid, middle: Point, kind: str, rng: np.random.Generator, density: float
) -> None:
    """As many and as large dots in a ball of 40 mm, apart or on a tree."""
    if kind == "miliary":
        for _ in range(46):
            away = rng.normal(size=3)
            away *= 40 * rng.random() ** (1 / 3) / np.linalg.norm(away)
            grid.ball(middle + away, rng.uniform(3.2, 4.6), density)
        return
    for _ in range(5):
        heading = rng.normal(size=3)
        ends = branch(grid, rng, middle, heading, 15.0, 3.4, density, generations=4)
        for end in ends:
            grid.ball(end, rng.uniform(3.2, 4.6), density)


def _tilted(rng: np.random.Generator) -> Point:
    """A direction within 35 degrees of upright."""
    tilt, around = math.radians(rng.uniform(0, 35)), rng.uniform(0, 2 * math.pi)
    return np.array(
        [math.sin(tilt) * math.cos(around), math.sin(tilt) * math.sin(around), math.cos(tilt)]
    )


def _places(grid: Grid, share: FloatArray, rng: np.random.Generator, count: int) -> list[Point]:
    """Points deep in the lungs, apart from each other as far as there is room."""
    depth = scipy.ndimage.distance_transform_edt(share > 0.5, sampling=grid.spacing)
    deep = np.argwhere(depth >= min(_CLEAR_MM, 0.85 * float(depth.max())))
    picked: list[Point] = []
    for index in rng.permutation(len(deep)):
        point = grid.point(deep[index])
        if all(np.linalg.norm(point - other) > 45 for other in picked):
            picked.append(point)
        if len(picked) == count:
            break
    return picked
