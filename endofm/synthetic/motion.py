"""A corpus of look-alikes: a chamber that fills, empties or rests; only its motion tells which.

Single frames of all classes are alike, every chamber does all three, so that its look tells nothing
either, and only stretches of a video are good enough to see anything: what selective sampling and
evidence are for.

```
manifest.csv                    path, frames, group, split, label_motion
corpus.json                     what the folder was made from
videos/motion_00000/0000.png    frames
```
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import ConfigError
from endofm.files import new_folder
from endofm.synthetic.corpus import claim
from endofm.synthetic.noise import smooth_noise

FORMAT = 2  # raise it when the same spec gives other files
MOTIONS = ("filling", "emptying", "resting")
STRETCH_FRAMES = 20
"""Quality changes after so many frames."""
POOR_GREY = 90.0
"""What is shown, under the noise, where a stretch is poor."""


@dataclass(frozen=True)
class MotionSpec:
    """What a corpus holds; video i depends on the seed, i and the sizes only."""

    num_videos: int = 600
    """Videos in all; three in a row show one chamber, with each of the three motions."""
    num_frames: int = 80
    """Frames of a video."""
    pixels: int = 64
    """Height and width of a frame, a multiple of 16."""
    poor_share: float = 0.7
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

    frames: npt.NDArray[np.uint8]  # [T, H, W] grey
    is_poor: npt.NDArray[np.bool_]  # [T]


def render_motion(spec: MotionSpec, chamber: int, motion: str) -> MotionVideo:
    """A chamber of a corpus, with any of the motions; `ConfigError` for another one."""
    if motion not in MOTIONS:
        raise ConfigError(f"There is no motion '{motion}'; choose one of {', '.join(MOTIONS)}.")
    streams = np.random.SeedSequence((spec.seed, chamber)).spawn(3)
    look, quality, grain = (np.random.default_rng(stream) for stream in streams)
    side, times = spec.pixels, np.arange(spec.num_frames)
    wall = 110 + 30 * smooth_noise(look, (side, side), (side // 4, side // 4))
    center = side * (0.5 + 0.08 * look.uniform(-1, 1, 2))
    least, most = side * look.uniform(0.06, 0.09), side * look.uniform(0.36, 0.42)
    volumes = _volumes(motion, spec.num_frames, look.uniform())
    stretches = quality.random(-(-spec.num_frames // STRETCH_FRAMES)) < spec.poor_share
    stretches[quality.integers(len(stretches))] = False
    is_poor = stretches[times // STRETCH_FRAMES]
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    distance = np.hypot(rows - center[0], columns - center[1])
    frames = np.empty((spec.num_frames, side, side), np.uint8)
    for time, volume in enumerate(volumes):
        inside = 1 / (1 + np.exp(distance - (least + (most - least) * volume)))
        frames[time] = _developed(wall + (35 - wall) * inside, bool(is_poor[time]), grain)
    return MotionVideo(frames, is_poor)


def write_motions(
    folder: Path, spec: MotionSpec, progress: Callable[[int], None] | None = None
) -> Path:
    """Write what is missing of a corpus, and return its manifest.

    Of ten chambers two are for validation and three for the test, with all their videos. Raises
    `ConfigError` for a folder made from another spec, or one that can't be written.
    """
    folder, segments = Path(folder), []
    claim(folder, {"format": FORMAT, **asdict(spec)})
    for index in range(spec.num_videos):
        chamber, place = divmod(index, len(MOTIONS))
        motion, turn = MOTIONS[place], chamber % 10
        split = "val" if turn < 2 else "test" if turn < 5 else "train"
        path = f"videos/motion_{index:05d}"
        if not (folder / path).is_dir():
            _write(folder / path, render_motion(spec, chamber, motion).frames)
        labels = {"motion": motion}
        segments.append(Segment(folder, path, 0, spec.num_frames, path, split, labels))
        if progress is not None:
            progress(index + 1)
    write_manifest(folder / "manifest.csv", segments)
    return folder / "manifest.csv"


def _volumes(motion: str, num_frames: int, resting: float) -> npt.NDArray[np.float64]:
    """How full the chamber is, 0 to 1: over all videos as often one as the other."""
    if motion == "resting":
        return np.full(num_frames, resting)
    rising = np.linspace(0, 1, num_frames)
    return rising if motion == "filling" else rising[::-1]


def _developed(
    picture: npt.NDArray[np.float64], is_poor: bool, grain: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A frame with noise; of a poor one nothing else is left."""
    shown = np.full_like(picture, POOR_GREY) if is_poor else picture
    noisy = shown + 6 * grain.standard_normal(picture.shape)
    return np.asarray(np.clip(noisy, 0, 255).round(), np.float64)


def _write(target: Path, frames: npt.NDArray[np.uint8]) -> None:
    """The folder is there whole or not at all."""
    with new_folder(target) as part:
        for number, frame in enumerate(frames):
            _, data = cv2.imencode(".png", frame)
            (part / f"{number:04d}.png").write_bytes(data.tobytes())
