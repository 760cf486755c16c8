"""Blood vessels: trees that wander, fork and thin out, drawn on the map of a wall."""

import math

import cv2
import numpy as np

from endofm.synthetic.noise import FloatArray

GENERATIONS = 6
STEPS = 9  # between two forks


def draw_vessels(
    rng: np.random.Generator, shape: tuple[int, int], detail: int, density: float
) -> tuple[FloatArray, FloatArray]:
    """Two maps between 0 and 1: thin vessels at the surface, blurred ones below it."""
    thin = _trees(rng, shape, detail, max(1, round(120 * density)), 2.0)
    deep = _trees(rng, shape, detail, max(1, round(26 * density)), 4.0)
    return (
        cv2.GaussianBlur(thin, (0, 0), 0.6 * detail),
        cv2.GaussianBlur(deep, (0, 0), 2.2 * detail),
    )


def _trees(
    rng: np.random.Generator, shape: tuple[int, int], detail: int, count: int, width: float
) -> FloatArray:
    """Grow all trees at once, one generation of branches after another."""
    rows, columns = shape
    margin = columns // 4
    canvas = np.zeros((rows, columns + 2 * margin), np.uint8)
    tip = rng.uniform([0, 0], [rows, columns], (count, 2))  # row, column
    heading = rng.uniform(0, 2 * math.pi, count)
    length = rng.uniform(4.0, 7.0, count) * detail
    for generation in range(GENERATIONS):
        path = np.empty((len(tip), STEPS + 1, 2))
        path[:, 0] = tip
        for step in range(STEPS):
            heading = heading + rng.normal(0, 0.22, len(tip))
            move = np.stack([np.sin(heading), np.cos(heading)], 1) * length[:, None]
            path[:, step + 1] = path[:, step] + move
        thickness = max(1, round(width * 0.8**generation * detail))
        shade = round(255 * max(0.35, 1 - 0.13 * generation))
        _draw(canvas, path, margin, thickness, shade)
        tip = np.repeat(path[:, -1], 2, axis=0)
        fork = np.tile([0.5, -0.5], len(heading)) * rng.uniform(0.6, 1.7, 2 * len(heading))
        heading = np.repeat(heading, 2) + fork
        length = np.repeat(length, 2) * rng.uniform(0.62, 0.95, 2 * len(length))
        kept = rng.random(len(tip)) < 0.8
        tip, heading, length = tip[kept], heading[kept], length[kept]
    inner = canvas[:, margin : margin + columns].copy()
    right = canvas[:, margin + columns :]
    left = canvas[:, :margin]
    np.maximum(inner[:, :margin], right, out=inner[:, :margin])
    np.maximum(inner[:, -margin:], left, out=inner[:, -margin:])
    return inner.astype(np.float32) / np.float32(255)


def _draw(canvas: np.ndarray, path: np.ndarray, margin: int, thickness: int, shade: int) -> None:
    """Lines with sub-pixel ends (4 bits); a later thin branch does not paint over a thick one."""
    points = np.round((path[..., ::-1] + [margin, 0]) * 16).astype(np.int32)
    layer = np.zeros_like(canvas)
    cv2.polylines(layer, list(points), False, shade, thickness, cv2.LINE_AA, 4)
    np.maximum(canvas, layer, out=canvas)
