"""From light to pictures: exposure, blur, the lens's border, noise, soft colours."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from endofm.synthetic.camera import Camera
from endofm.synthetic.noise import FloatArray, smoothstep

BORDERS = ("octagon", "circle", "cut_circle", "rounded", "none")


class Imager:
    """One endoscope's optics and electronics, drawn once a clip."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.size = height, width
        self.unit = min(height, width) / 128  # pixels of a picture 128 high
        self.view = _field_of_view(rng, height, width)
        self.brightness = float(np.exp(rng.uniform(-1.9, -1.05)))
        warmth, tint = rng.normal(0, 0.06), rng.normal(0, 0.03)
        self.white = np.array([1 + warmth, 1 - tint, 1 - warmth], np.float32)
        self.shutter = float(rng.uniform(0.15, 0.7))
        self.softness = float(rng.uniform(0.55, 0.9)) * self.unit**0.6
        self.sharpening = float(rng.uniform(0.0, 0.45))
        self.gamma = float(rng.uniform(1.55, 2.05))
        self.saturation = float(rng.uniform(1.0, 1.25))
        self.noise = float(rng.uniform(0.8, 3.0))
        self.black = float(rng.uniform(2, 16))
        self.grain = rng.standard_normal((2 * height, 2 * width)).astype(np.float32)
        self.chroma = rng.standard_normal((height, width, 2)).astype(np.float32)
        self.places = rng.integers(0, [[height, width]], (4096, 2))

    def expose(self, light: FloatArray) -> FloatArray:
        """A gain for each of the frames `light` [T, H, W, 3]: automatic, a little slow."""
        gains = np.empty(len(light), np.float32)
        seen = self.view[::2, ::2] > 0.5
        level = 0.0
        for frame, picture in enumerate(light[:, ::2, ::2]):
            clipped = np.minimum(picture[seen].mean(1), np.float32(6 * np.median(picture[seen])))
            now = math.log(float(clipped.mean()) + 1e-6)
            level = now if frame == 0 else level + 0.25 * (now - level)
            gains[frame] = self.brightness / math.exp(level)
        return gains

    def develop(self, light: FloatArray, frame: int, camera: Camera) -> npt.NDArray[np.uint8]:
        """One picture, uint8 [H, W, 3] RGB, from exposed light."""
        per_radian = min(self.size) / 2 / camera.half_angle
        right, down = (way * per_radian * self.shutter for way in camera.drift(frame))
        if math.hypot(right, down) > 1:
            light = cv2.filter2D(light, -1, _streak(right, down))
        light = cv2.GaussianBlur(light, (0, 0), self.softness)
        bloom = cv2.GaussianBlur(np.clip(light - 1, 0, 3), (0, 0), 3 * self.unit)
        toned = 1 - np.exp(-1.6 * self.white * (light + 0.12 * bloom))
        picture = 255 * np.power(toned, np.float32(1 / self.gamma), dtype=np.float32)
        if self.sharpening:
            blurred = cv2.GaussianBlur(picture, (0, 0), 1.4 * self.unit)
            picture += self.sharpening * (picture - blurred)
        picture = self._electronics(picture, frame)
        view = self.view[..., None]
        picture = picture * view + np.float32(self.black) * (1 - view)
        return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)

    def _electronics(self, picture: FloatArray, frame: int) -> FloatArray:
        """Noise, and colours at half the resolution."""
        height, width = self.size
        row, column = self.places[frame % len(self.places)]
        noise = self.grain[row : row + height, column : column + width]
        brightness = cv2.transform(picture, np.array([[0.299, 0.587, 0.114]], np.float32))
        colors = (picture - brightness[..., None]) * np.float32(self.saturation)
        small = cv2.resize(colors, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        hue = np.roll(self.chroma, (row, column), (0, 1))[: height // 2, : width // 2]
        small[..., 0] += 0.8 * self.noise * hue[..., 0]
        small[..., 2] += 0.8 * self.noise * hue[..., 1]
        colors = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray((brightness + self.noise * noise)[..., None] + colors, np.float32)


def _streak(right: float, down: float) -> FloatArray:
    """A kernel that smears along a way of so many pixels."""
    reach = min(15, math.ceil(math.hypot(right, down) / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    scale = min(1.0, 2 * reach / math.hypot(right, down))
    for part in np.linspace(-0.5, 0.5, 4 * reach + 1):
        x, y = reach + part * right * scale, reach + part * down * scale
        kernel[min(2 * reach, max(0, round(y))), min(2 * reach, max(0, round(x)))] += 1
    return np.asarray(kernel / kernel.sum(), np.float32)


def _field_of_view(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """What the lens's border leaves of the picture, 0 to 1."""
    kind = BORDERS[int(rng.choice(len(BORDERS), p=[0.36, 0.2, 0.18, 0.12, 0.14]))]
    unit = min(height, width) / 2
    x = np.abs((np.arange(width, dtype=np.float32) - (width - 1) / 2) / unit)[None]
    y = np.abs((np.arange(height, dtype=np.float32) - (height - 1) / 2) / unit)[:, None]
    side, top = width / 2 / unit, height / 2 / unit
    margin = float(rng.uniform(0.0, 0.06))
    cut = float(rng.uniform(0.35, 0.75))
    if kind == "octagon":
        outside = np.maximum(
            np.maximum(x - side, y - top) + margin, (x + y - side - top + cut) / 1.41
        )
    elif kind == "circle":
        outside = np.hypot(x, y) - (1 - margin)
    elif kind == "cut_circle":
        outside = np.maximum(np.hypot(x, y) - (1.12 + margin), y - top + margin)
    elif kind == "rounded":
        corner = 0.6 * cut
        gone = np.hypot(np.maximum(x - side + corner, 0), np.maximum(y - top + corner, 0))
        outside = gone - corner + margin
    else:
        return np.ones((height, width), np.float32)
    return 1 - smoothstep(-1.2 / unit, 1.2 / unit, np.asarray(outside, np.float32))
