"""Endoscopes: where the tip is and looks in every frame, and the rays of its pixels."""

import math
from dataclasses import dataclass

import numpy as np

from endofm.synthetic.noise import FloatArray
from endofm.synthetic.polyps import Polyp
from endofm.synthetic.world import LENGTH, World


@dataclass(frozen=True)
class Camera:
    """A camera's way and its lens."""

    position: FloatArray  # [T, 3]
    axes: FloatArray  # [T, 3, 3] rows: right, down, forward
    half_angle: float  # radians from the middle of the picture to its nearer border
    lamp: FloatArray  # [3] from the lens, in the camera's axes

    def rays(self, height: int, width: int) -> FloatArray:
        """Directions [H, W, 3] in the camera's axes: equal angles to equal distances (fisheye)."""
        scale = self.half_angle / (min(height, width) / 2)
        right = (np.arange(width) - (width - 1) / 2) * scale
        down = (np.arange(height) - (height - 1) / 2) * scale
        x, y = np.meshgrid(right, down)
        angle = np.minimum(np.hypot(x, y), math.pi * 0.6) + 1e-6
        ratio = np.sin(angle) / angle
        return np.dstack([x * ratio, y * ratio, np.cos(angle)]).astype(np.float32)

    def drift(self, frame: int) -> tuple[float, float]:
        """How far the picture moves by turning from a frame to the next, in radians x and y."""
        frames = len(self.position)
        now, then = (frame, frame + 1) if frame + 1 < frames else (max(frame - 1, 0), frame)
        turned = self.axes[now] @ self.axes[then, 2]
        return float(turned[0] / turned[2]), float(turned[1] / turned[2])


def drive_camera(rng: np.random.Generator, world: World, target: Polyp, num_frames: int) -> Camera:
    """A smooth way to and from a target on the wall, with the unrest of a hand."""
    time = np.arange(num_frames)
    period, start = float(rng.uniform(45, 110)), float(rng.uniform(0, 2 * math.pi))
    middle, travel = float(rng.uniform(1.0, 1.8)), float(rng.uniform(0.35, 0.9))
    away = middle + travel * np.sin(2 * math.pi * time / period + start)
    depth = target.sphere[0][2] - away + 0.05 * _unrest(rng, time)
    clearance = _clearance(world, depth)
    offset = 0.28 * np.stack([_unrest(rng, time, slow=3), _unrest(rng, time, slow=3)], 1)
    position = np.empty((num_frames, 3))
    line = world.line.at(depth.astype(np.float32))
    position[:, :2] = np.stack(line, 1) + offset * clearance[:, None]
    position[:, 2] = depth
    ahead = (depth + 1.3).astype(np.float32)
    forward = np.stack([*world.line.at(ahead), ahead], 1) - position
    aim = target.sphere[0] - position
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    aim /= np.linalg.norm(aim, axis=1, keepdims=True)
    weight = float(rng.uniform(0.35, 0.9)) + 0.15 * _unrest(rng, time, slow=2)
    look = forward + (aim - forward) * np.clip(weight, 0, 1)[:, None]
    roll = float(rng.uniform(0, 2 * math.pi)) + 0.15 * _unrest(rng, time, slow=2)
    shake = float(rng.uniform(0.02, 0.06))
    look += shake * np.stack([_unrest(rng, time) for _ in range(3)], 1)
    axes = _axes(look, roll)
    half_angle = math.radians(float(rng.uniform(46, 60)))
    lamp = np.array([rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06), 0.0], np.float32)
    return Camera(position.astype(np.float32), axes, half_angle, lamp)


def _unrest(rng: np.random.Generator, time: np.ndarray, slow: float = 1.0) -> np.ndarray:
    """Three slow waves, about between -1 and 1."""
    periods = rng.uniform(14, 60, 3) * slow
    phases = rng.uniform(0, 2 * math.pi, 3)
    weights = periods / periods.sum()
    return np.asarray((weights * np.sin(2 * math.pi * time[:, None] / periods + phases)).sum(1))


def _clearance(world: World, depth: np.ndarray) -> np.ndarray:
    """The narrowest radius around each depth, folds included, without jumps."""
    narrowest = world.relief.min(1)
    rows = world.rows(depth.astype(np.float32))
    reach = round(0.35 * len(narrowest) / LENGTH)
    padded = np.pad(narrowest, reach, mode="edge")
    floor = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).min(1)
    smooth = np.convolve(np.pad(floor, reach, "edge"), np.ones(2 * reach + 1), "valid")
    found = np.interp(rows, np.arange(len(smooth)), smooth / (2 * reach + 1))
    return np.maximum(found - 0.08, 0.0)


def _axes(look: np.ndarray, roll: np.ndarray) -> FloatArray:
    """Right, down and forward of a camera that looks along `look`, rolled around it."""
    forward = look / np.linalg.norm(look, axis=1, keepdims=True)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll)[:, None], np.sin(roll)[:, None]
    turned = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward], 1)
    return turned.astype(np.float32)
