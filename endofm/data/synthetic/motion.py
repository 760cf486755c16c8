"""A corpus of look-alikes: a spot on a round way, in classes that only its motion tells apart.

Single frames of all classes are alike, and only stretches of a video are good enough to see the
spot: what selective sampling and evidence are for.

```
manifest.csv                    path, frames, group, split, label_motion
corpus.json                     what the folder was made from
videos/motion_00000/0000.png    frames
```
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.manifest import Segment, write_manifest
from endofm.data.synthetic.corpus import claim
from endofm.data.synthetic.noise import smooth_noise
from endofm.errors import ConfigError

FORMAT = 1  # raise it when the same spec gives other files
MOTIONS = ("clockwise", "anticlockwise", "to_and_fro")
TURN_FRAMES = 60
"""Frames of a turn, about."""
SWING_FRAMES = 15
"""Frames after which what goes to and fro turns back."""
STRETCH_FRAMES = 20
"""Quality changes after so many frames."""


@dataclass(frozen=True)
class MotionSpec:
    """What a corpus holds; video i depends on the seed, i and the sizes only."""

    num_videos: int = 90
    """Videos in all; the three motions take turns."""
    num_frames: int = 120
    """Frames of a video."""
    pixels: int = 64
    """Height and width of a frame, a multiple of 16."""
    poor_share: float = 0.5
    """Chance that a stretch of 20 frames is poor; one stretch of each video is good."""
    seed: int = 0
    """Another seed, another corpus."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if not 1 <= self.num_videos <= 99_999 or not 1 <= self.num_frames <= 9_999:
            raise ConfigError(
                f"num_videos is {self.num_videos} and num_frames {self.num_frames}; give 1 to "
                "99999 videos of 1 to 9999 frames."
            )
        if self.pixels % 16 or not 32 <= self.pixels <= 512:
            raise ConfigError(f"pixels is {self.pixels}; give a multiple of 16 from 32 to 512.")
        if self.seed < 0 or not 0 <= self.poor_share <= 1:
            raise ConfigError(
                f"The seed is {self.seed} and poor_share {self.poor_share}; give a whole number of "
                "0 or more, and a share from 0 to 1."
            )


@dataclass(frozen=True)
class MotionVideo:
    """Frames, and which of them are too poor to see anything."""

    frames: npt.NDArray[np.uint8]  # [T, H, W, 3] RGB
    is_poor: npt.NDArray[np.bool_]  # [T]


def render_motion(spec: MotionSpec, index: int, motion: str) -> MotionVideo:
    """Video `index` of a corpus with any of the motions: its first frame is the same for all."""
    streams = np.random.SeedSequence((spec.seed, index)).spawn(3)
    look, quality, grain = (np.random.default_rng(stream) for stream in streams)
    side, times = spec.pixels, np.arange(spec.num_frames)
    ground = 90 + 22 * smooth_noise(look, (side, side), (side // 4, side // 4))
    center = side * (0.5 + 0.06 * look.uniform(-1, 1, 2))
    radius, size = side * look.uniform(0.22, 0.3), side * look.uniform(0.07, 0.1)
    tint = look.uniform(0.6, 1.0, 3)
    start, speed = look.uniform(0, 2 * math.pi), 2 * math.pi / TURN_FRAMES * look.uniform(0.8, 1.2)
    angles = start + speed * _way(motion, times)
    stretches = quality.random(-(-spec.num_frames // STRETCH_FRAMES)) < spec.poor_share
    stretches[quality.integers(len(stretches))] = False
    is_poor = stretches[times // STRETCH_FRAMES]
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    frames = np.empty((spec.num_frames, side, side, 3), np.uint8)
    for time, angle in enumerate(angles):
        row, column = center + radius * np.array([math.sin(angle), math.cos(angle)])
        spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
        picture = ground[..., None] + 120 * spot[..., None] * tint
        frames[time] = _developed(picture, bool(is_poor[time]), grain)
    return MotionVideo(frames, is_poor)


def write_motions(
    folder: Path, spec: MotionSpec, progress: Callable[[int], None] | None = None
) -> Path:
    """Write what is missing of a corpus, and return its manifest.

    Of ten videos of each motion two are for validation and three for the test. Raises `ConfigError`
    for a folder made from another spec, or one that can't be written.
    """
    folder, segments = Path(folder), []
    try:
        claim(folder, {"format": FORMAT, **asdict(spec)})
        for index in range(spec.num_videos):
            motion, turn = MOTIONS[index % len(MOTIONS)], index // len(MOTIONS) % 10
            split = "val" if turn < 2 else "test" if turn < 5 else "train"
            path = f"videos/motion_{index:05d}"
            if not (folder / path).is_dir():
                _write(folder / path, render_motion(spec, index, motion).frames)
            labels = {"motion": motion}
            segments.append(Segment(folder, path, 0, spec.num_frames, path, split, labels))
            if progress is not None:
                progress(index + 1)
        write_manifest(folder / "manifest.csv", segments)
    except OSError as error:
        raise ConfigError(
            f"The corpus can't be written to {folder} ({error}); give a folder that is writable "
            "and has space."
        ) from error
    return folder / "manifest.csv"


def _way(motion: str, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How far the spot is on its way at each time, in frames' worth of speed."""
    if motion not in MOTIONS:
        raise ConfigError(f"There is no motion '{motion}'; choose one of {', '.join(MOTIONS)}.")
    if motion == "to_and_fro":
        period = 2 * SWING_FRAMES
        return np.asarray(np.abs((times + SWING_FRAMES) % period - SWING_FRAMES), np.float64)
    return np.asarray(times if motion == "clockwise" else -times, np.float64)


def _developed(
    picture: npt.NDArray[np.float64], is_poor: bool, grain: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A frame with noise; a poor one is blurred and nothing but noise to the eye."""
    side = picture.shape[0]
    noise = grain.standard_normal(picture.shape)
    if is_poor:
        blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), side / 8), np.float64)
        picture = blurred.mean() + 0.1 * (blurred - blurred.mean()) + 25 * noise
    else:
        picture = picture + 6 * noise
    return np.asarray(np.clip(picture, 0, 255).round(), np.float64)


def _write(target: Path, frames: npt.NDArray[np.uint8]) -> None:
    """The folder is there whole or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, frame in enumerate(frames):
        _, data = cv2.imencode(".png", frame[..., ::-1])
        (part / f"{number:04d}.png").write_bytes(data.tobytes())
    part.rename(target)
