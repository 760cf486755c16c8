"""Polyps: rounded bodies that grow out of the wall, as signed distances."""

import math
from dataclasses import dataclass

import numpy as np

from endofm.synthetic.noise import FloatArray
from endofm.synthetic.world import TARGET_DEPTH, World

KINDS = ("sessile", "pedunculated", "lobulated", "flat")


@dataclass(frozen=True)
class Polyp:
    """One polyp; its own axes are two along the wall and one out of it."""

    kind: str
    base: FloatArray  # [3] where it grows
    axes: FloatArray  # [3, 3] rows: along, across, outward
    parts: FloatArray  # [K, 6] ellipsoids: centre and radii in its own axes
    size: float
    bumps: tuple[float, float]  # height and fineness of the lobes on its surface
    tint: FloatArray  # [3] reflectance relative to the wall around it
    mottle: float

    @property
    def sphere(self) -> tuple[FloatArray, float]:
        """Centre (world) and radius of a ball that holds all of it and its foot."""
        center = self.parts[:, :3].mean(0)
        reach = np.linalg.norm(self.parts[:, :3] - center, axis=1) + self.parts[:, 3:].max(1)
        world = self.base + center @ self.axes
        return world.astype(np.float32), float(reach.max()) + 0.25 * self.size

    def local(self, x: FloatArray, y: FloatArray, z: FloatArray) -> tuple[FloatArray, ...]:
        """World points in the polyp's own axes."""
        x, y, z = x - self.base[0], y - self.base[1], z - self.base[2]
        return tuple(x * a[0] + y * a[1] + z * a[2] for a in self.axes)

    def distance(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """About how far points are from its surface, negative within."""
        a, b, n = self.local(x, y, z)
        ca, cb, cn, ra, rb, rn = self.parts.T.reshape(6, -1, *[1] * a.ndim)  # each [K, 1, ...]
        u, v, w = (a - ca) / ra, (b - cb) / rb, (n - cn) / rn
        near = np.sqrt(u * u + v * v + w * w) + np.float32(1e-4)
        u, v, w = u / ra, v / rb, w / rn
        gradient = np.sqrt(u * u + v * v + w * w) + np.float32(1e-4)
        result, *others = near * (near - 1) / gradient
        for part in others:
            result = smooth_min(result, part, 0.22 * self.size)[0]
        height, fineness = self.bumps
        if height:
            rate = np.float32(fineness / self.size)
            lobes = np.sin(rate * (a + 0.4 * b)) * np.sin(rate * (b - 0.5 * n) + 1)
            result = result - np.float32(height * self.size) * lobes * np.sin(rate * (n + 0.3 * a))
        return np.asarray(result, np.float32)


def smooth_min(one: FloatArray, other: FloatArray, blend: float) -> tuple[FloatArray, FloatArray]:
    """The smaller of two distances with a rounded seam, and the share of `other` in it."""
    share = np.clip(0.5 + (one - other) * np.float32(0.5 / blend), 0, 1)
    return one + (other - one) * share - np.float32(blend) * share * (1 - share), share


def grow_polyp(rng: np.random.Generator, world: World, near: float = 0.0) -> Polyp:
    """Draw a polyp on the wall about `near` beyond the target depth."""
    kind = KINDS[int(rng.choice(len(KINDS), p=[0.34, 0.26, 0.26, 0.14]))]
    size = float(rng.uniform(0.17, 0.42)) * (0.8 if kind == "pedunculated" else 1.0)
    parts, bumps = _body(rng, kind, size)
    angle = float(rng.uniform(0, 2 * math.pi))
    depth = np.float32(TARGET_DEPTH + near + rng.uniform(-0.3, 0.3))
    row = round(float(world.rows(np.asarray(depth))))
    column = round(angle * world.relief.shape[1] / (2 * math.pi)) % world.relief.shape[1]
    radius = float(world.relief[row, column])
    x, y = world.line.at(np.asarray(depth))
    base = np.array([x + radius * math.cos(angle), y + radius * math.sin(angle), depth])
    outward = np.array([-math.cos(angle), -math.sin(angle), rng.uniform(-0.5, 0.1)])
    outward /= np.linalg.norm(outward)
    twist = rng.standard_normal(3)
    along = np.cross(outward, twist)
    along /= np.linalg.norm(along)
    axes = np.stack([along, np.cross(outward, along), outward])
    return Polyp(
        kind,
        base.astype(np.float32),
        axes.astype(np.float32),
        parts.astype(np.float32),
        size,
        bumps,
        _tint(rng),
        float(rng.uniform(0.08, 0.26)),
    )


def _body(
    rng: np.random.Generator, kind: str, size: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """Ellipsoids in units of length, and the lobes on them."""
    smooth = (float(rng.uniform(0.02, 0.06)), float(rng.uniform(2.5, 4.5)))
    rough = (float(rng.uniform(0.05, 0.11)), float(rng.uniform(6, 9)))
    if kind == "sessile":
        flat, oval = rng.uniform(0.5, 0.9), rng.uniform(0.7, 1.3)
        body = [[0, 0, 0.2 * flat, 1, oval, flat]]
        return size * np.array(body), rough if rng.random() < 0.3 else smooth
    if kind == "pedunculated":
        lean, tall = rng.uniform(-0.5, 0.5, 2), float(rng.uniform(1.1, 1.9))
        stalk = [[*(lean * s * s), tall * s, 0.42, 0.42, 0.5] for s in (0.05, 0.4, 0.7)]
        head = [[*lean, tall, 1, rng.uniform(0.8, 1.1), rng.uniform(0.75, 1.1)]]
        return size * np.array(stalk + head), rough if rng.random() < 0.4 else smooth
    if kind == "flat":
        body = [[0, 0, 0.05, rng.uniform(1.1, 1.6), rng.uniform(0.9, 1.3), rng.uniform(0.3, 0.42)]]
        return size * np.array(body), (rough[0] * 0.7, rough[1])
    turns = rng.uniform(0, 2 * math.pi) + np.array([0, 2.1, 4.2]) + rng.normal(0, 0.3, 3)
    knobs = [
        [0.62 * math.cos(t), 0.62 * math.sin(t), rng.uniform(0.15, 0.5), r, r, r]
        for t, r in zip(turns, rng.uniform(0.5, 0.8, 3), strict=True)
    ]
    return size * np.array([[0, 0, 0.1, 1.0, 0.9, 0.55], *knobs]), rough


def _tint(rng: np.random.Generator) -> FloatArray:
    """Redder, paler or yellower than the wall, or much like it: no colour of its own."""
    tints = [[0.94, 0.66, 0.68], [0.98, 1.04, 1.05], [0.96, 0.97, 0.82], [0.93, 0.85, 0.87]]
    tint = np.array(tints[int(rng.integers(len(tints)))]) * rng.uniform(0.95, 1.05, 3)
    return tint.astype(np.float32)
