"""A chest as a CT shows it: body, bones, heart, airways and vessels, in Hounsfield units.

Coordinates are millimetres from the middle of the volume to the patient's left (x), back (y) and
head (z). Shapes are painted one over the other with edges as soft as a voxel is large, so that
small ones look as they do at any resolution.
"""

import functools
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

FloatArray = npt.NDArray[np.floating[Any]]
Point = npt.NDArray[np.float64]

WIDTH_MM = 340.0
"""Side of a slice."""
HEIGHT_MM = 256.0
"""From the lowest slice to the highest."""
AIR, LUNG, FAT, MUSCLE, MARROW, BONE = -1000, -860, -100, 45, 160, 480
GENERATIONS = 5
"""Of vessels, from the trunks on."""
TRUNKS = 9
"""Vessels that leave each hilum."""


class Grid:
    """Voxels [S, P, P] in Hounsfield units, and how shapes are painted on them."""

    def __init__(self, num_slices: int, pixels: int) -> None:
        self.spacing = (HEIGHT_MM / num_slices, WIDTH_MM / pixels, WIDTH_MM / pixels)
        depth, side = (
            ((np.arange(count) + 0.5 - count / 2) * step).astype(np.float32)
            for count, step in ((num_slices, self.spacing[0]), (pixels, self.spacing[1]))
        )
        self.x, self.y, self.z = side[None, None, :], side[None, :, None], depth[:, None, None]
        self.edge = float(np.mean(self.spacing))
        self.units: FloatArray = np.full((num_slices, pixels, pixels), AIR, np.float32)

    def soft(self, distance: FloatArray) -> FloatArray:
        """Share of a voxel inside a shape, from the distance to its surface (inside negative)."""
        share: FloatArray = np.clip(0.5 - distance / np.float32(self.edge), 0, 1)
        return share

    def paint(self, share: FloatArray, value: float | FloatArray) -> None:
        """Put something over all of the volume."""
        self.units += share * (value - self.units)

    def capsule(self, start: Point, stop: Point, radius: float, value: float) -> None:
        """Paint all that lies within `radius` of the way between two points (x, y, z)."""
        reach = radius + self.edge
        low, high = np.minimum(start, stop) - reach, np.maximum(start, stop) + reach
        box = tuple(
            slice(*np.searchsorted(axis.ravel(), (low[place], high[place])).tolist())
            for axis, place in ((self.z, 2), (self.y, 1), (self.x, 0))
        )
        x, y, z = self.x[..., box[2]], self.y[:, box[1]], self.z[box[0]]
        way = (stop - start).astype(np.float32)
        from_start = (x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2]))
        along = sum(part * step for part, step in zip(from_start, way, strict=True))
        along = np.clip(along / max(float(way @ way), 1e-6), 0, 1)
        squares = (part - along * step for part, step in zip(from_start, way, strict=True))
        distance = np.sqrt(sum(square**2 for square in squares)) - np.float32(radius)
        # What is thinner than a voxel fills only a part of it.
        share = self.soft(distance) * np.float32(min(1.0, (2 * radius / self.edge) ** 1.5))
        self.units[box] += share * (np.float32(value) - self.units[box])

    def keep(self, before: FloatArray, share: FloatArray) -> None:
        """Take back what was painted since, but for a share of each voxel."""
        self.units[:] = before + share * (self.units - before)

    def point(self, index: npt.NDArray[np.int64]) -> Point:
        """Where a voxel lies (x, y, z)."""
        depth, row, column = index.tolist()
        return np.array([self.x[0, 0, column], self.y[0, row, 0], self.z[depth, 0, 0]], np.float64)

    def ball(self, middle: Point, radius: float, value: float) -> None:
        """Paint a ball."""
        self.capsule(middle, middle, radius, value)


@dataclass(frozen=True)
class Chest:
    """What differs from patient to patient."""

    size: float
    fat_mm: float
    heart_mm: float
    blood: float
    """Of vessels and heart: about 45 without contrast medium, up to 200 with."""
    dome_mm: tuple[float, float]
    """How high the diaphragm stands, right and left."""
    scoliosis_mm: float
    density: float
    """Of the lungs, in Hounsfield units above `LUNG`: how far they are breathed out."""


def draw_chest(rng: np.random.Generator) -> Chest:
    """A patient."""
    dome = rng.uniform(18, 42)
    return Chest(
        size=rng.uniform(0.88, 1.04),
        fat_mm=rng.uniform(6, 22),
        heart_mm=rng.uniform(44, 56),
        blood=float(rng.choice([rng.uniform(40, 55), rng.uniform(110, 200)])),
        dome_mm=(dome + rng.uniform(4, 14), dome),
        scoliosis_mm=rng.normal(0, 4),
        density=rng.uniform(-30, 60),
    )


def rounded(
    x: FloatArray, y: FloatArray, a: float | FloatArray, b: float | FloatArray, power: float
) -> FloatArray:
    """Distance to a rounded ellipse of half-axes a, b, about; negative inside."""
    radius = ((np.abs(x) / a) ** power + (np.abs(y) / b) ** power) ** np.float32(1 / power)
    return np.asarray((radius - 1) * np.minimum(a, b), np.float32)


def _cage(grid: Grid, chest: Chest) -> FloatArray:
    """Distance to the inside of the ribs, which narrow towards the neck."""
    size, high = chest.size, np.clip((grid.z - 20) / 105, 0, 1)
    width, depth = 1 - 0.42 * high**1.6, 1 - 0.34 * high**1.6
    return rounded(grid.x, grid.y + 3 - 12 * high, 122 * size * width, 87 * size * depth, 2.2)


def _spine(grid: Grid, chest: Chest) -> FloatArray:
    """Distance to the vertebral bodies."""
    bend = chest.scoliosis_mm * np.sin(grid.z / 90)
    across = 19 * chest.size
    return rounded(grid.x - bend, grid.y - 64 * chest.size, across, 0.8 * across, 2.2)


def lungs(grid: Grid, chest: Chest) -> FloatArray:
    """Share of each voxel that is lung, 0 to 1: the cage without what lies between the lungs."""
    size, share = chest.size, np.zeros_like(grid.units)
    cage, spine, heart = _cage(grid, chest) + 6, 4 - _spine(grid, chest), -_heart(grid, chest)
    hilum = 15 * np.exp(-(((grid.z - 12) / 30) ** 2) - ((grid.y - 6) / 34) ** 2)
    between = 17 + hilum + 7 * np.clip((grid.z - 40) / 60, 0, 1)
    between = between * (1 - 0.45 * np.exp(-(((grid.y + 62) / 26) ** 2)))  # they near in front
    for side, dome in zip((-1, 1), chest.dome_mm, strict=True):
        away = ((grid.x - side * 66 * size) / 54) ** 2 + ((grid.y + 6) / 76) ** 2
        floor = -118 * size + 1.6 * dome * np.exp(-away / 1.5)
        ends = [floor - grid.z, grid.z - 122 * size]
        walls = [cage, spine, heart, between * size - side * grid.x, *ends]
        share = np.maximum(share, grid.soft(_largest(walls, 3.0)))
    return share


def _largest(distances: list[FloatArray], soft_mm: float) -> FloatArray:
    """The largest of distances, with corners rounded off."""
    highest = functools.reduce(np.maximum, distances)
    total = sum(np.exp((one - highest) / soft_mm) for one in distances)
    return np.asarray(highest + soft_mm * np.log(total), np.float32)


def _heart(grid: Grid, chest: Chest) -> FloatArray:
    """Distance to the heart, about; its tip points to the left and front."""
    x, y, z = grid.x - 16, grid.y + 26, grid.z + 46
    along, across = 0.82 * x - 0.57 * y, 0.57 * x + 0.82 * y
    size = chest.heart_mm
    radius = np.sqrt((along / (1.3 * size)) ** 2 + (across / size) ** 2 + (z / (1.15 * size)) ** 2)
    return np.asarray((radius - 1) * size, np.float32)


def paint_body(grid: Grid, chest: Chest, rng: np.random.Generator) -> FloatArray:
    """Everything but vessels in the lungs and what is ill; returns the share that is lung."""
    size, x, y, z = chest.size, grid.x, grid.y, grid.z
    shoulders = 1 + 0.10 / (1 + np.exp(-(z - 85) / 12))
    half_width, half_depth = 146 * size * shoulders, 104 * size
    grid.paint(grid.soft(np.abs(y - 128 - 1e-3 * x**2) - 3) * (np.abs(x) < 150), -350)  # the couch
    body = rounded(x, y, half_width + chest.fat_mm, half_depth + chest.fat_mm, 2.5)
    mottled = scipy.ndimage.gaussian_filter(rng.standard_normal(grid.units.shape), 1.2).astype(
        np.float32
    )
    grid.paint(grid.soft(body), FAT + 40 * mottled)
    muscle = rounded(x, y, half_width, half_depth, 2.4)
    grid.paint(grid.soft(muscle), MUSCLE + 60 * mottled)
    cage = _cage(grid, chest)
    grid.paint(grid.soft(cage), 20 + 90 * mottled)  # mediastinum: fat and vessels
    _paint_bones(grid, chest, cage)
    below = grid.soft(cage + 4) * grid.soft(z + 60 * size)
    grid.paint(below, np.where(x < 25, 62, 48) + 30 * mottled)  # liver; spleen and stomach
    grid.capsule(np.array([60.0, -40, -118]), np.array([40.0, -48, -124]), 15 * size, -950)
    heart = grid.soft(_heart(grid, chest))
    grid.paint(heart, 0.8 * chest.blood + 10)
    inner = np.asarray(_heart(grid, chest) + 12, np.float32)
    grid.paint(grid.soft(inner), chest.blood)
    share = lungs(grid, chest)
    cloudy = scipy.ndimage.gaussian_filter(
        rng.standard_normal(grid.units.shape), (2.5, 4, 4)
    ).astype(np.float32)
    cloudy /= cloudy.std() + 1e-6
    lung = LUNG + chest.density + 0.28 * y + 14 * cloudy  # denser where it lies
    grid.paint(share, lung)
    _paint_trunks(grid, chest)
    return share


def _paint_bones(grid: Grid, chest: Chest, cage: FloatArray) -> None:
    size, x, y, z = chest.size, grid.x, grid.y, grid.z
    slope = (z + 0.45 * y + 0.2 * np.abs(x)) / 27
    rib = np.abs(slope - np.round(slope)) * 27 - 5.5
    shell = np.abs(cage - 3) - 5
    ribs = np.maximum(np.maximum(rib, shell), 16 - np.abs(x))
    grid.paint(grid.soft(np.asarray(ribs, np.float32)), BONE)
    grid.paint(grid.soft(np.asarray(np.maximum(rib + 3, shell + 3.2), np.float32)), MARROW + 60)
    bend, spine = chest.scoliosis_mm * np.sin(z / 90), _spine(grid, chest)
    disc = np.abs((z / 24) - np.round(z / 24)) * 24 < 4.5
    grid.paint(grid.soft(spine), np.where(disc, 90, BONE - 60).astype(np.float32))
    grid.paint(grid.soft(spine + 4), np.where(disc, 80, MARROW).astype(np.float32))
    arch = rounded(x - bend, y - 89 * size, 17 * size, 11 * size, 1.4)
    grid.paint(grid.soft(arch), BONE - 80)
    grid.paint(grid.soft(rounded(x - bend, y - 86 * size, 8, 7, 2)), 20)
    sternum = rounded(x, y + 92 * size, 20, 6, 2.5)
    grid.paint(grid.soft(np.maximum(sternum, -z - 60)), MARROW + 80)


def _paint_trunks(grid: Grid, chest: Chest) -> None:
    """Aorta, vena cava, pulmonary trunk; windpipe and main bronchi."""
    size, blood = chest.size, chest.blood
    arch = [(14, 50, -140), (16, 48, 20), (14, 34, 58), (2, -4, 72), (-10, -24, 52), (-6, -22, 8)]
    tubes = [(arch, 12.5), ([(-26, -12, 130), (-28, -16, 0)], 9.0)]
    tubes += [
        ([(8, -30, 10), (12, -14, 34), (44, 6, 26)], 11.0),
        ([(8, -8, 30), (-42, 4, 18)], 10.0),
    ]
    for points, radius in tubes:
        _tube(grid, points, radius * size, blood)
    for points, radius in (
        ([(0, 10, 140), (0, 16, 44)], 9.0),
        ([(0, 16, 44), (-26, 16, 22), (-44, 12, 10)], 6.5),
        ([(0, 16, 44), (28, 18, 18), (46, 14, 4)], 6.0),
    ):
        _tube(grid, points, (radius + 2) * size, 30)
        _tube(grid, points, radius * size, -990)


def _tube(grid: Grid, points: list[tuple[int, int, int]], radius: float, value: float) -> None:
    places = [np.array(point, np.float64) for point in points]
    for start, stop in pairwise(places):
        grid.capsule(start, stop, radius, value)


def paint_vessels(grid: Grid, chest: Chest, share: FloatArray, rng: np.random.Generator) -> None:
    """Trees from both hila to places all over the lungs, thinner from fork to fork."""
    before = grid.units.copy()
    inside = np.argwhere(share > 0.5)
    for side in (-1, 1):
        hilum = np.array([side * 36.0, 8.0, 12.0]) * chest.size
        for _ in range(TRUNKS):
            target = grid.point(inside[rng.integers(len(inside))])
            target[0] = side * abs(target[0])
            way = target - hilum
            length = 0.3 * float(np.linalg.norm(way)) + 8
            branch(grid, rng, hilum, way, length, rng.uniform(3.4, 5.0), chest.blood)
    grid.keep(before, np.clip(share * 1.2 - 0.2, 0, 1))


def branch(
    grid: Grid,
    rng: np.random.Generator,
    start: Point,
    heading: Point,
    length: float,
    radius: float,
    value: float,
    generations: int = GENERATIONS,
) -> list[Point]:
    """Paint a tree from a point on; the ends of its last branches."""
    heading = heading / (np.linalg.norm(heading) + 1e-9)
    stop = start + heading * length * rng.uniform(0.7, 1.15)
    grid.capsule(start, stop, radius, value)
    if generations <= 1:
        return [stop]
    side = np.cross(heading, rng.normal(size=3))
    side /= np.linalg.norm(side) + 1e-9
    ends: list[Point] = []
    for sign, share in ((1, rng.uniform(0.25, 0.5)), (-1, rng.uniform(0.4, 0.8))):
        turned = heading + sign * share * side + rng.normal(0, 0.12, 3)
        ends += branch(
            grid, rng, stop, turned, length * 0.78, radius * 0.74, value, generations - 1
        )
    return ends


def add_noise(grid: Grid, rng: np.random.Generator) -> None:
    """The blur of the reconstruction, and noise of the rays that is a little smooth in a slice."""
    grid.units[:] = scipy.ndimage.gaussian_filter(grid.units, (0, 0.35, 0.35))
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(grid.units.shape), (0, 0.55, 0.55))
    depth = 1 - np.minimum(np.hypot(grid.x, grid.y) / (WIDTH_MM / 2), 1)  # rays through more
    strength = rng.uniform(12, 24) * (0.6 + math.sqrt(2) * depth) / (noise.std() + 1e-6)
    grid.units += (strength * noise).astype(np.float32)
