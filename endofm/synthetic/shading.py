"""Light on wet tissue: a lamp beside the lens that fades with the square of the distance."""

from collections.abc import Sequence

import numpy as np

from endofm.synthetic.camera import Camera
from endofm.synthetic.noise import FloatArray, lookup, smoothstep
from endofm.synthetic.polyps import Polyp
from endofm.synthetic.tracing import Hits, Rays, around, polyp_normal
from endofm.synthetic.world import World

Vectors = tuple[FloatArray, ...]  # x, y, z


def shade(
    world: World,
    polyps: Sequence[Polyp],
    camera: Camera,
    frames: slice,
    rays: Rays,
    hits: Hits,
    grain: FloatArray,
) -> FloatArray:
    """Linear light [F * H, W, 3] that reaches the lens; `grain` is a tile for polyps' surfaces."""
    points = rays.at(hits.reach)
    normal, color, wet = _wall(world, points)
    for number, polyp in enumerate(polyps, 1):
        _paint_polyp(world, polyp, number, hits, points, normal, color, wet, grain)
    normal = _unit(normal)
    axes = camera.axes[frames]
    rows = len(rays.origin[0]) // len(axes)
    beam = [np.repeat(axes[:, 2, axis], rows)[:, None] for axis in range(3)]
    beside = np.repeat(
        (axes * camera.lamp[:, None]).sum(1), rows, axis=0
    )  # the lamp, from the lens
    to_lamp = tuple(rays.origin[a] + beside[:, a, None] - points[a] for a in range(3))
    square = _dot(to_lamp, to_lamp) + np.float32(0.09)
    to_lamp = tuple(v / np.sqrt(square) for v in to_lamp)
    facing = _dot(normal, to_lamp)
    spread = np.maximum(-_dot(to_lamp, beam), np.float32(0.05))
    fall = spread / square
    diffuse = (np.maximum(facing, 0) + np.float32(0.5)) / np.float32(1.5)
    light = color[..., :3] * (diffuse * fall * color[..., 3])[..., None]
    glow = np.float32(0.05) / (1 + square)  # light that wandered through the tissue: redder
    light += color[..., :3] ** 2 * (glow * color[..., 3])[..., None]
    half = _unit(tuple(v - d for v, d in zip(to_lamp, rays.direction, strict=True)))
    mirror = np.maximum(_dot(normal, half), 0)
    gloss = smoothstep(0.988, 0.998, mirror) * smoothstep(0.4, 0.75, wet) * np.float32(2.5)
    sheen = mirror**16 * (np.float32(0.03) * wet)
    light += ((gloss + sheen) * fall * color[..., 3])[..., None]
    return np.asarray(light, np.float32)


def _wall(world: World, points: Vectors) -> tuple[Vectors, FloatArray, FloatArray]:
    """Normals into the tube, reflectance with openness, wetness."""
    x, y, radius, column, row = around(world, *points)
    slope = lookup(world.slope, column, row)
    color = lookup(world.color, column, row)
    x, y = x / radius, y / radius
    turn, along = slope[..., 0] / radius, slope[..., 1]
    normal_x, normal_y = -turn * y - x, turn * x - y
    line_x, line_y = world.line.slope(points[2])
    normal_z = along - line_x * normal_x - line_y * normal_y
    return (normal_x, normal_y, normal_z), color, slope[..., 2].copy()


def _paint_polyp(
    world: World,
    polyp: Polyp,
    number: int,
    hits: Hits,
    points: Vectors,
    normal: Vectors,
    color: FloatArray,
    wet: FloatArray,
    grain: FloatArray,
) -> None:
    """Give the points on and at the foot of a polyp its normals and colours, in place."""
    center, radius = polyp.sphere
    square = sum((p - c) ** 2 for p, c in zip(points, center, strict=True))
    chosen = np.asarray(square < (1.5 * radius) ** 2)
    if not chosen.any():
        return
    x, y, z = (p[chosen] for p in points)
    foot = np.clip(polyp.distance(x, y, z) / np.float32(0.35 * polyp.size), 0, 1)
    share = np.where(hits.instance[chosen] == number, hits.polyp[chosen], 0)
    share = np.maximum(share, np.where(hits.instance[chosen] == 0, hits.polyp[chosen], 0))
    shade_at_foot = 1 - np.float32(0.25) * (1 - foot) * (1 - share)
    color[chosen, :3] *= shade_at_foot[:, None]
    a, b, n = polyp.local(x, y, z)
    scale = np.float32(grain.shape[0] * 0.22 / polyp.size)
    u = np.mod((a + 0.6 * n) * scale, grain.shape[1] - 1)[:, None]
    v = np.mod((b - 0.5 * n) * scale, grain.shape[0] - 1)[:, None]
    texture = lookup(grain, u, v)[:, 0]
    own = (0.6 * world.tissue + 0.4 * color[chosen, :3]) * polyp.tint
    own = own * np.maximum(1 + np.float32(polyp.mottle) * texture[:, :1], np.float32(0.3))
    own = own * (1 - np.array([0.0, 0.16, 0.14], np.float32) * np.clip(texture[:, 1:2], 0, 2))
    color[chosen, :3] += (own - color[chosen, :3]) * share[:, None]
    color[chosen, 3] += (1 - color[chosen, 3]) * share
    wet[chosen] += (np.float32(0.5) + np.float32(0.25) * texture[:, 2] - wet[chosen]) * share
    bent = polyp_normal(polyp, x, y, z)
    rough = np.float32(0.09)
    for axis, (wall, body) in enumerate(zip(normal, bent, strict=True)):
        body = body + rough * texture[:, (axis + 1) % 3]
        wall[chosen] += (body - wall[chosen]) * share


def _dot(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(one[0] * other[0] + one[1] * other[1] + one[2] * other[2], np.float32)


def _unit(vector: Vectors) -> Vectors:
    length = 1 / np.sqrt(_dot(vector, vector) + np.float32(1e-8))
    return vector[0] * length, vector[1] * length, vector[2] * length
