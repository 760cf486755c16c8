"""Where rays meet the wall or a polyp: marching along them by the distance that is surely free."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from endofm.synthetic.noise import FloatArray, lookup
from endofm.synthetic.polyps import Polyp, smooth_min
from endofm.synthetic.world import World

FARTHEST = 7.0


@dataclass(frozen=True)
class Rays:
    """Rays of some frames, stacked: every array [F * H, W]; directions have length 1."""

    origin: tuple[FloatArray, FloatArray, FloatArray]  # each [F * H, 1]
    direction: tuple[FloatArray, FloatArray, FloatArray]

    def at(self, reach: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Points after a way along each ray."""
        (ox, oy, oz), (dx, dy, dz) = self.origin, self.direction
        return ox + reach * dx, oy + reach * dy, oz + reach * dz

    def pick(self, chosen: np.ndarray) -> "Rays":
        """Some of the rays, as columns [N, 1] (`chosen`: bool [F * H, W])."""
        shape = chosen.shape
        x, y, z = (np.broadcast_to(o, shape)[chosen][:, None] for o in self.origin)
        right, down, ahead = (d[chosen][:, None] for d in self.direction)
        return Rays((x, y, z), (right, down, ahead))


@dataclass(frozen=True)
class Hits:
    """What every ray meets, [F * H, W]."""

    reach: FloatArray
    polyp: FloatArray  # how much of the point belongs to a polyp, 0 to 1
    instance: np.ndarray  # uint8: 0 the wall, 1 the first polyp, ...


def cast_rays(position: FloatArray, axes: FloatArray, lens: FloatArray) -> Rays:
    """Rays of frames at `position` [F, 3] with `axes` [F, 3, 3] through `lens` [H, W, 3]."""
    frames, (height, width, _) = len(position), lens.shape
    x, y, z = (lens[None, ..., axis] for axis in range(3))
    direction = []
    for axis in range(3):
        right, down, forward = (axes[:, row, axis][:, None, None] for row in range(3))
        direction.append((x * right + y * down + z * forward).reshape(frames * height, width))
    origin = [np.repeat(position[:, axis], height)[:, None] for axis in range(3)]
    return Rays(tuple(origin), tuple(direction))  # type: ignore[arg-type]


def around(world: World, x: FloatArray, y: FloatArray, z: FloatArray) -> tuple[FloatArray, ...]:
    """Points in the tube's own terms: offsets from its middle, radius, map column and map row."""
    center_x, center_y = world.line.at(z)
    x, y = x - center_x, y - center_y
    radius, angle = cv2.cartToPolar(x, y)
    return x, y, radius, world.columns(angle), world.rows(z)


def free_way(world: World, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    """How far points may go without meeting the wall; negative behind it."""
    _, _, radius, column, row = around(world, x, y, z)
    found = lookup(world.pace, column, row)
    return np.asarray((found[..., 0] - radius) * found[..., 1], np.float32)


def trace(world: World, polyps: Sequence[Polyp], rays: Rays, coarse: Rays | None) -> Hits:
    """Find the first surface on every ray; `coarse` are rays of half the resolution, for speed."""
    shape = rays.direction[0].shape
    if coarse is None:
        reach = march(world, rays, np.full(shape, 0.02, np.float32), 26)
    else:
        start = np.full(coarse.direction[0].shape, 0.02, np.float32)
        rough = cv2.erode(march(world, coarse, start, 30), np.ones((3, 3), np.uint8))
        start = cv2.resize(rough, shape[::-1], interpolation=cv2.INTER_LINEAR) * np.float32(0.97)
        reach = march(world, rays, start, 7)
        _march_on(world, rays, reach)
        reach = _land(world, rays, reach)
    share = np.zeros(shape, np.float32)
    instance = np.zeros(shape, np.uint8)
    for number, polyp in enumerate(polyps, 1):
        _meet_polyp(world, polyp, number, rays, reach, share, instance)
    return Hits(reach, share, instance)


def march(world: World, rays: Rays, reach: FloatArray, steps: int) -> FloatArray:
    """Go on along the rays until the wall."""
    for _ in range(steps):
        step = free_way(world, *rays.at(reach))
        reach = np.minimum(reach + step, np.float32(FARTHEST))
    return np.maximum(reach, np.float32(0.02))


def _land(world: World, rays: Rays, reach: FloatArray) -> FloatArray:
    """Two secant steps onto a wall that is near: marching alone only creeps up to it."""
    before, reach = reach, reach + np.float32(0.004)
    left = free_way(world, *rays.at(before))
    for _ in range(2):
        now = free_way(world, *rays.at(reach))
        fall = np.minimum((now - left) / (reach - before + np.float32(1e-7)), np.float32(-0.08))
        before, left = reach, now
        reach = reach - np.clip(now / fall, -0.06, 0.06)
    return np.maximum(reach, np.float32(0.02))


def _march_on(world: World, rays: Rays, reach: FloatArray) -> None:
    """Finish the few rays that graze a fold, in place."""
    left = np.abs(free_way(world, *rays.at(reach))) > np.float32(0.015)
    if left.any():
        reach[left] = march(world, rays.pick(left), reach[left][:, None], 20)[:, 0]


def enter_sphere(polyp: Polyp, rays: Rays) -> tuple[FloatArray, np.ndarray]:
    """Where rays enter the ball that holds a polyp, and which of them do, [F * H, W]."""
    center, radius = polyp.sphere
    offset = [o - c for o, c in zip(rays.origin, center, strict=True)]
    along = -sum(o * d for o, d in zip(offset, rays.direction, strict=True))
    square = along * along - sum(o * o for o in offset) + np.float32(radius * radius)
    entry = along - np.sqrt(np.maximum(square, 0))
    return entry, (square > 0) & (along > 0)


def _meet_polyp(
    world: World,
    polyp: Polyp,
    number: int,
    rays: Rays,
    reach: FloatArray,
    share: FloatArray,
    instance: np.ndarray,
) -> None:
    """Shorten the rays that meet a polyp before the wall, in place."""
    entry, enters = enter_sphere(polyp, rays)
    chosen = enters & (entry < reach)
    if not chosen.any():
        return
    few = rays.pick(chosen)
    limit = reach[chosen][:, None]
    way = np.maximum(entry[chosen], np.float32(0.01))[:, None]
    for _ in range(18):
        distance, _ = seam(world, polyp, *few.at(way))
        way = np.minimum(way + np.float32(0.85) * distance, limit)
    _, part = seam(world, polyp, *few.at(way))
    reach[chosen] = np.maximum(way[:, 0], np.float32(0.02))
    share[chosen] = np.maximum(part[:, 0], share[chosen])
    instance[chosen] = np.where(part[:, 0] > 0.5, np.uint8(number), instance[chosen])


def seam(
    world: World, polyp: Polyp, x: FloatArray, y: FloatArray, z: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Distance from the wall and a polyp grown together, and the polyp's share in it."""
    wall = free_way(world, x, y, z)
    return smooth_min(wall, polyp.distance(x, y, z), 0.24 * polyp.size)


def polyp_normal(
    polyp: Polyp, x: FloatArray, y: FloatArray, z: FloatArray
) -> tuple[FloatArray, ...]:
    """The direction in which the distance from a polyp grows, not normalised."""
    step = np.float32(0.02 * polyp.size)
    here = polyp.distance(x, y, z)
    return tuple(
        (polyp.distance(x + step * e[0], y + step * e[1], z + step * e[2]) - here) / step
        for e in np.eye(3, dtype=np.float32)
    )
