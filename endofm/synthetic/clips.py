"""Clips: a world, a camera's way through it and its pictures, all from one seed."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from endofm.errors import ConfigError
from endofm.synthetic.camera import Camera, drive_camera
from endofm.synthetic.imaging import Imager
from endofm.synthetic.noise import FloatArray, smooth_noise
from endofm.synthetic.polyps import Polyp, grow_polyp
from endofm.synthetic.shading import shade
from endofm.synthetic.tracing import cast_rays, enter_sphere, trace
from endofm.synthetic.world import SCENES, World, build_world

SMALLEST, LARGEST = 32, 1024  # pixels of a picture's sides
ATTEMPTS = 24
PIXELS_AT_ONCE = 1 << 16  # rays that fit into a processor's cache


@dataclass(frozen=True)
class SyntheticClip:
    """Frames with what they show."""

    frames: npt.NDArray[np.uint8]  # [T, H, W, 3] RGB
    instances: npt.NDArray[np.uint8]  # [T, H, W] 0: no polyp, 1: the first polyp, 2: the second
    scene: str
    has_polyp: bool

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """True on polyps, [T, H, W]."""
        return self.instances > 0

    def boxes(self) -> list[npt.NDArray[np.int64]]:
        """Per frame [n, 4]: x1 y1 x2 y2, inclusive corners, one row a visible polyp."""
        return [_boxes(frame) for frame in self.instances]


def render_clip(
    seed: int,
    scene: str | None = None,
    has_polyp: bool | None = None,
    num_frames: int = 40,
    height: int = 128,
    width: int = 128,
) -> SyntheticClip:
    """Render a clip; the same arguments give the same pixels.

    What isn't given is drawn. A seed shows the same organ on the same way with and without polyp.
    Raises `ConfigError` for an unknown scene or sizes that can't be rendered.
    """
    check_sizes(num_frames, height, width)
    if seed < 0:
        raise ConfigError(f"The seed is {seed}; give a whole number of 0 or more.")
    if scene is not None and scene not in SCENES:
        raise ConfigError(f"There is no scene '{scene}'; choose one of {', '.join(SCENES)}.")
    streams = np.random.SeedSequence(seed).spawn(4)
    choice, ground, way, optics = (np.random.default_rng(stream) for stream in streams)
    drawn_scene, drawn_polyp = (
        SCENES[int(choice.integers(len(SCENES)))],
        bool(choice.random() < 0.5),
    )
    scene = drawn_scene if scene is None else scene
    has_polyp = drawn_polyp if has_polyp is None else has_polyp
    world = build_world(ground, scene, detail=1 if min(height, width) <= 192 else 2)
    imager = Imager(optics, height, width)
    polyps, camera = _find_way(way, world, imager, num_frames)
    grain = np.dstack([smooth_noise(way, (128, 128), (8, 8)) for _ in range(3)])
    light, instances = _render(world, polyps if has_polyp else [], camera, imager, grain)
    light *= imager.expose(light)[:, None, None, None]
    frames = np.stack([imager.develop(picture, t, camera) for t, picture in enumerate(light)])
    instances[:, imager.view < 0.5] = 0
    return SyntheticClip(frames, instances, scene, has_polyp)


def check_sizes(num_frames: int, height: int, width: int) -> None:
    """Raise `ConfigError` where a clip of these sizes can't be rendered or encoded."""
    if num_frames < 1:
        raise ConfigError(f"num_frames is {num_frames}; a clip needs at least 1 frame.")
    for name, value in (("height", height), ("width", width)):
        if value % 2 or not SMALLEST <= value <= LARGEST:
            raise ConfigError(
                f"{name} is {value}; choose an even number from {SMALLEST} to {LARGEST}."
            )


def _find_way(
    rng: np.random.Generator, world: World, imager: Imager, num_frames: int
) -> tuple[list[Polyp], Camera]:
    """Draw polyps and ways until the first polyp is well seen; keep the best if none is."""
    best: tuple[float, list[Polyp], Camera] | None = None
    wish = float(rng.uniform(0.12, 0.32))
    for _ in range(ATTEMPTS):
        polyps = [grow_polyp(rng, world)]
        if rng.random() < 0.25:
            polyps.append(grow_polyp(rng, world, near=float(rng.uniform(0.5, 1.5))))
        camera = drive_camera(rng, world, polyps[0], num_frames)
        score = _score(world, polyps, camera, imager, wish, 0.0 if best is None else best[0])
        if best is None or score > best[0]:
            best = score, polyps, camera
        if score >= 1:
            break
    assert best is not None
    return best[1], best[2]


def _score(
    world: World, polyps: list[Polyp], camera: Camera, imager: Imager, wish: float, to_beat: float
) -> float:
    """How well polyps are seen, from a small preview; 1 or more is good enough.

    They should fill 5 % of the view in most of the frames, and the share `wish` in one at least.
    Where the balls that hold them, or the rays into these alone, show that a score above `to_beat`
    is out of reach, it is 0, and the rest of the preview is left out.
    """
    height, width = imager.size
    scale = 32 / min(height, width)
    size = round(height * scale), round(width * scale)
    frames = np.unique(np.linspace(0, len(camera.position) - 1, 12).round().astype(int))
    rays = cast_rays(camera.position[frames], camera.axes[frames], camera.rays(*size))
    view = cv2.resize(imager.view, size[::-1], interpolation=cv2.INTER_AREA) > 0.5

    def rate(shown: npt.NDArray[np.bool_]) -> tuple[float, float]:
        share = (shown.reshape(len(frames), *size) & view).sum((1, 2)) / view.sum()
        most = float(share.max())
        return min(float((share >= 0.05).mean()) / 0.65, most / wish), most

    shown = np.logical_or.reduce([enter_sphere(polyp, rays)[1] for polyp in polyps])
    if rate(shown)[0] <= to_beat:
        return 0.0
    shown[shown] = trace(world, polyps, rays.pick(shown), None).instance[:, 0] > 0
    if rate(shown)[0] <= to_beat:
        return 0.0
    hits = trace(world, polyps, rays, None)
    score, most = rate(hits.instance > 0)
    return 0.0 if float(hits.reach.min()) < 0.1 or most > 0.6 else score


def _render(
    world: World, polyps: list[Polyp], camera: Camera, imager: Imager, grain: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Light [T, H, W, 3] and polyp numbers [T, H, W], some frames at a time."""
    height, width = imager.size
    lens, half = camera.rays(height, width), camera.rays(height // 2, width // 2)
    total = len(camera.position)
    light = np.empty((total, height, width, 3), np.float32)
    instances = np.empty((total, height, width), np.uint8)
    step = max(1, PIXELS_AT_ONCE // (height * width))
    for first in range(0, total, step):
        frames = slice(first, min(first + step, total))
        position, axes = camera.position[frames], camera.axes[frames]
        rays, coarse = cast_rays(position, axes, lens), cast_rays(position, axes, half)
        hits = trace(world, polyps, rays, coarse)
        shaded = shade(world, polyps, camera, frames, rays, hits, grain)
        light[frames] = shaded.reshape(-1, height, width, 3)
        instances[frames] = hits.instance.reshape(-1, height, width)
    return light, instances


def _boxes(instances: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    found = []
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        found.append([columns.min(), rows.min(), columns.max(), rows.max()])
    return np.array(found, np.int64).reshape(-1, 4)
