"""The wall of an organ: a tube along a winding centre line, its relief and its colours as maps.

All lengths are in units of the organ's usual radius. A map's rows run along the tube (`depth`, from
0 to `LENGTH`), its columns around it (`angle`, from 0 to 2 pi).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from endofm.synthetic.noise import FloatArray, smooth_noise, smoothstep
from endofm.synthetic.vessels import draw_vessels

SCENES = ("colon", "esophagus", "small_bowel", "stomach")
LENGTH = 12.0
MAP_ROWS, MAP_COLUMNS = 1024, 512
TARGET_DEPTH = 5.5  # where cameras go and polyps grow


@dataclass(frozen=True)
class CenterLine:
    """Where the middle of the tube lies at a depth: one sine across each axis."""

    sway: tuple[float, float]
    rate: tuple[float, float]
    phase: tuple[float, float]

    def at(self, depth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Offsets x and y of the centre at each depth."""
        x = np.float32(self.sway[0]) * np.sin(np.float32(self.rate[0]) * depth + self.phase[0])
        y = np.float32(self.sway[1]) * np.sin(np.float32(self.rate[1]) * depth + self.phase[1])
        return np.asarray(x, np.float32), np.asarray(y, np.float32)

    def slope(self, depth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How fast the offsets change with depth."""
        x = np.float32(self.sway[0] * self.rate[0]) * np.cos(self.rate[0] * depth + self.phase[0])
        y = np.float32(self.sway[1] * self.rate[1]) * np.cos(self.rate[1] * depth + self.phase[1])
        return x.astype(np.float32), y.astype(np.float32)


@dataclass(frozen=True)
class World:
    """An organ without polyps."""

    scene: str
    line: CenterLine
    relief: FloatArray  # [rows, columns] distance of the wall from the centre
    pace: FloatArray  # [rows, columns, 2] relief, and what share of the way to it is surely free
    slope: FloatArray  # [rows, columns, 3] relief per angle and per depth (fine bumps too), wetness
    color: FloatArray  # [rows, columns, 4] linear RGB reflectance, openness (0: deep in a furrow)
    tissue: FloatArray  # [3] the mean reflectance

    def rows(self, depth: FloatArray) -> FloatArray:
        """Map rows of depths, kept within the map."""
        last = self.relief.shape[0] - 1
        return np.asarray(np.clip(depth * np.float32(last / LENGTH), 0, last), np.float32)

    def columns(self, angle: FloatArray) -> FloatArray:
        """Map columns of angles."""
        return np.asarray(angle * np.float32(self.relief.shape[1] / (2 * math.pi)), np.float32)


def build_world(rng: np.random.Generator, scene: str, detail: int = 1) -> World:
    """Draw an organ; `detail` multiplies the resolution of its maps, not what they show."""
    straight = {"colon": 1.0, "small_bowel": 1.1, "esophagus": 0.25, "stomach": 0.5}[scene]
    sway, rate, phase = rng.uniform(0.25, 0.55, 2), rng.uniform(0.5, 0.8, 2), rng.uniform(0, 7, 2)
    line = CenterLine(
        (float(sway[0] * straight), float(sway[1] * straight)),
        (float(rate[0]), float(rate[1])),
        (float(phase[0]), float(phase[1])),
    )
    shapes = {
        "colon": _colon,
        "esophagus": _esophagus,
        "small_bowel": _small_bowel,
        "stomach": _stomach,
    }
    shape = (MAP_ROWS * detail, MAP_COLUMNS * detail)
    depth, angle = _grid(shape)
    relief = shapes[scene](rng, depth, angle, detail)
    relief += 0.03 * smooth_noise(rng, shape, (64 * detail, 64 * detail))
    relief = cv2.GaussianBlur(np.maximum(relief, 0.05), (0, 0), 1.2 * detail)
    bumps, wet = _fine_bumps(rng, scene, shape, detail)
    color, tissue = _colors(rng, scene, relief, detail)
    debris = _debris(rng, shape, detail, color)
    bumps += debris
    slope = np.dstack([*_gradient(relief + bumps), wet])
    return World(scene, line, relief, _pace(relief, detail), slope, color, tissue)


def _grid(shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    depth = np.linspace(0, LENGTH, shape[0], dtype=np.float32)[:, None]
    angle = np.arange(shape[1], dtype=np.float32)[None] * np.float32(2 * math.pi / shape[1])
    return depth, angle


def _pace(relief: FloatArray, detail: int) -> FloatArray:
    """Relief, and the share of the way to it that leads through no fold near by."""
    around, along = _gradient(relief)
    steep = np.hypot(around / relief, along)
    window = np.ones((33 * detail, 25 * detail), np.uint8)
    return np.dstack([relief, 1 / np.hypot(1, cv2.dilate(steep, window))]).astype(np.float32)


def _gradient(relief: FloatArray) -> tuple[FloatArray, FloatArray]:
    rows, columns = relief.shape
    around = (np.roll(relief, -1, 1) - np.roll(relief, 1, 1)) * (columns / (4 * math.pi))
    along = np.gradient(relief, LENGTH / (rows - 1), axis=0)
    return around.astype(np.float32), along.astype(np.float32)


def _colon(
    rng: np.random.Generator, depth: FloatArray, angle: FloatArray, detail: int
) -> FloatArray:
    """Half-moon folds in three rows, pouches between them, a lumen with three corners."""
    rows, columns = depth.size, angle.size
    turn = float(rng.uniform(0, 2 * math.pi))
    crest = np.zeros((rows, columns), np.float32)
    spacing = float(rng.uniform(0.6, 0.95))
    for sector in range(3):
        place = float(rng.uniform(-0.5, 0.5)) * spacing
        while place < LENGTH + 0.5:
            middle = turn + sector * 2.094 + float(rng.normal(0, 0.15))
            height, thick = float(rng.uniform(0.2, 0.46)), float(rng.uniform(0.065, 0.12))
            reach, curl = float(rng.uniform(0.9, 1.45)), float(rng.uniform(-0.25, 0.25))
            away = np.abs(np.mod(angle - middle + math.pi, 2 * math.pi) - math.pi)
            extent = 1 - smoothstep(0.35 * reach, reach, away)
            center = place + curl * (1 - np.cos(away))
            near = slice(
                max(0, int((place - 0.7) / LENGTH * rows)),
                max(0, int((place + 0.7) / LENGTH * rows)),
            )
            offset = (depth[near] - center) / thick
            fold = height * extent * np.exp(-(np.abs(offset) ** 1.7))
            np.maximum(crest[near], fold, out=crest[near])
            place += spacing * float(rng.uniform(0.75, 1.3))
    corners = 1 + 0.07 * np.cos(3 * (angle - turn) + math.pi)
    return np.asarray(corners - crest, np.float32)


def _esophagus(
    rng: np.random.Generator, depth: FloatArray, angle: FloatArray, detail: int
) -> FloatArray:
    """A straight tube with smooth folds along it, that closes towards a star."""
    shape = (depth.size, angle.size)
    lobes = int(rng.integers(4, 7))
    drift = 0.5 * smooth_noise(rng, shape, (256 * detail, 256 * detail))
    folds = (0.5 + 0.5 * np.cos(lobes * angle + rng.uniform(0, 7) + drift)) ** 0.8
    closing = float(rng.uniform(2.2, 4.5)) + TARGET_DEPTH
    closed = smoothstep(closing - 2.5, closing, depth)
    depth_of_folds = float(rng.uniform(0.08, 0.2)) * (1 + 0.5 * np.sin(0.9 * depth)) + 0.3 * closed
    ring = 0.06 * np.cos(2 * math.pi * depth / float(rng.uniform(1.2, 2.2)) + rng.uniform(0, 7))
    return np.asarray(0.98 - 0.45 * closed + ring - depth_of_folds * folds, np.float32)


def _small_bowel(
    rng: np.random.Generator, depth: FloatArray, angle: FloatArray, detail: int
) -> FloatArray:
    """Thin ring folds close together, wavy and broken."""
    shape = (depth.size, angle.size)
    spacing, thick = float(rng.uniform(0.26, 0.38)), float(rng.uniform(0.045, 0.065))
    wave = smooth_noise(rng, shape, (128 * detail, 128 * detail))
    wave += 0.35 * smooth_noise(rng, shape, (32 * detail, 32 * detail))
    cycle = depth / np.float32(spacing) + np.float32(0.4) * wave
    offset = (cycle - np.floor(cycle) - np.float32(0.5)) * np.float32(spacing / thick)
    strength = smooth_noise(rng, shape, (32 * detail, 128 * detail))
    height = float(rng.uniform(0.13, 0.22)) * smoothstep(-1.6, 0.6, strength)
    flat = 1 + 0.08 * np.cos(2 * angle + rng.uniform(0, 7))
    return np.asarray(flat - height * np.exp(-(np.abs(offset) ** 1.6)), np.float32)


def _stomach(
    rng: np.random.Generator, depth: FloatArray, angle: FloatArray, detail: int
) -> FloatArray:
    """A wide hall with thick winding folds along it, that ends in a small opening."""
    shape = (depth.size, angle.size)
    winding = 0.9 * smooth_noise(rng, shape, (128 * detail, 128 * detail))
    winding += 0.5 * smooth_noise(rng, shape, (64 * detail, 64 * detail))
    folds = 2 * int(rng.integers(4, 7))
    ridges = np.abs(np.sin(0.5 * folds * angle + 1.1 * winding)) ** 0.8
    strength = smoothstep(-1.2, 0.6, smooth_noise(rng, shape, (128 * detail, 64 * detail)))
    end = TARGET_DEPTH + float(rng.uniform(1.2, 2.4))
    closed = smoothstep(end - 1.6, end, depth)
    hall = 1.25 - 0.9 * closed + 0.12 * np.sin(0.8 * depth + rng.uniform(0, 7))
    height = float(rng.uniform(0.22, 0.36)) * (1 - 0.8 * closed)
    return np.asarray(hall - height * strength * ridges, np.float32)


def _fine_bumps(
    rng: np.random.Generator, scene: str, shape: tuple[int, int], detail: int
) -> tuple[FloatArray, FloatArray]:
    """Relief too fine to be traced, and how wet the wall is."""
    fine = 0.35 * smooth_noise(rng, shape, (4 * detail, 4 * detail))
    fine += 0.9 * smooth_noise(rng, shape, (8 * detail, 8 * detail))
    coarse = smooth_noise(rng, shape, (16 * detail, 16 * detail))
    velvet = {"colon": 0.0007, "esophagus": 0.0005, "small_bowel": 0.004, "stomach": 0.0011}[scene]
    velvet *= float(rng.uniform(0.7, 1.4))
    wet = 0.45 + 0.2 * smooth_noise(rng, shape, (64 * detail, 64 * detail))
    wet += 0.2 * smooth_noise(rng, shape, (8 * detail, 8 * detail)) + 0.12 * fine
    wet = np.clip(wet + np.float32(rng.uniform(-0.22, 0.1)), 0, 1)
    return (velvet * fine + 0.005 * coarse).astype(np.float32), wet


def _colors(
    rng: np.random.Generator, scene: str, relief: FloatArray, detail: int
) -> tuple[FloatArray, FloatArray]:
    """Reflectance of the mucosa with its vessels, patches and pale crests."""
    shape = (relief.shape[0], relief.shape[1])
    tissue = _tissue(rng, scene)
    large = smooth_noise(rng, shape, (128 * detail, 128 * detail))
    small = smooth_noise(rng, shape, (16 * detail, 16 * detail))
    grain = smooth_noise(rng, shape, (4 * detail, 4 * detail))
    light = 1 + 0.07 * large + 0.05 * small + 0.03 * grain
    redness = 0.09 * smooth_noise(rng, shape, (64 * detail, 64 * detail)) + 0.04 * small
    spots = smooth_noise(rng, shape, (64 * detail, 64 * detail))
    redness += float(rng.uniform(-0.25, 0.4)) * smoothstep(1.3, 2.0, spots)
    hollow = cv2.GaussianBlur(relief, (0, 0), 14 * detail) - relief
    pale = np.clip(hollow, 0, 0.3)
    density = {"colon": 1.0, "esophagus": 0.7, "small_bowel": 0.5, "stomach": 0.5}[scene]
    thin, deep = draw_vessels(rng, shape, detail, density * float(rng.uniform(0.5, 1.3)))
    visible = float(rng.uniform(0.5, 1.1)) * smoothstep(-2.2, 0.4, large)
    thin, deep = thin * visible, deep * visible
    color = np.empty((*shape, 4), np.float32)
    color[..., 0] = tissue[0] * light * (1 - 0.28 * thin - 0.3 * deep) * (1 + 0.2 * redness)
    color[..., 1] = tissue[1] * light * (1 - 0.62 * thin - 0.36 * deep) * (1 - redness + pale)
    color[..., 2] = tissue[2] * light * (1 - 0.58 * thin - 0.22 * deep) * (1 - redness + pale)
    color[..., 3] = np.clip(1 + 2.2 * np.minimum(hollow, 0), 0.35, 1)
    np.clip(color, 0.01, 1, out=color)
    return color, tissue


def _tissue(rng: np.random.Generator, scene: str) -> FloatArray:
    """Pink, red, orange, tan: a mixture in which the organ's own usually prevails."""
    palette = np.array(
        [[0.78, 0.28, 0.21], [0.66, 0.12, 0.08], [0.84, 0.31, 0.06], [0.78, 0.44, 0.17]], np.float32
    )
    shares = np.full(len(palette), 0.8)
    shares[("colon", "stomach", "small_bowel", "esophagus").index(scene)] += 2.4
    weights = rng.dirichlet(shares).astype(np.float32)
    return np.asarray((palette * weights[:, None]).sum(0), np.float32)


def _debris(
    rng: np.random.Generator, shape: tuple[int, int], detail: int, color: FloatArray
) -> FloatArray:
    """Paint bubbles and residue onto the colours; returns the relief they add."""
    relief = np.zeros(shape, np.float32)
    if rng.random() < 0.35:
        residue = smooth_noise(rng, shape, (64 * detail, 64 * detail))
        residue += 0.4 * smooth_noise(rng, shape, (16 * detail, 16 * detail))
        cover = float(rng.uniform(0.4, 0.85)) * smoothstep(1.5, 2.5, residue)[..., None]
        stain = np.array([0.60, 0.36, 0.07], np.float32) * np.float32(rng.uniform(0.4, 1.1))
        stain = stain * (1 + 0.2 * smooth_noise(rng, shape, (8 * detail, 8 * detail))[..., None])
        color[..., :3] = color[..., :3] * (1 - cover) + stain * cover
        relief -= 0.02 * cover[..., 0]
    if rng.random() < 0.5:
        relief -= _bubbles(rng, shape, detail, color)
    return relief


def _bubbles(
    rng: np.random.Generator, shape: tuple[int, int], detail: int, color: FloatArray
) -> FloatArray:
    """Froth in clusters: domes with a dark rim."""
    domes = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(2, 9))):
        middle = rng.uniform([0.25 * shape[0], 0], [0.75 * shape[0], shape[1]])
        for _ in range(int(rng.integers(2, 9))):
            radius = int(rng.integers(3, 8)) * detail
            row, column = middle + rng.normal(0, 12 * detail, 2)
            at = int(np.clip(row, radius, shape[0] - radius - 1))
            left = int(np.clip(column, radius, shape[1] - radius - 1))
            offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
            inside = 1 - (offsets**2).sum(0) / radius**2
            window = np.s_[at - radius : at + radius + 1, left - radius : left + radius + 1]
            dome = np.sqrt(np.maximum(inside, 0)) * np.float32(0.012 * radius / detail)
            np.maximum(domes[window], dome, out=domes[window])
            rim = np.clip(1 - np.abs(inside - 0.15) / 0.15, 0, 1)[..., None]
            color[window] *= 1 - 0.3 * rim
    return domes
