"""Copies of clips, changed as real copies are, to see which of them are found."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from endofm.synthetic.corpus import X264

Frames = np.ndarray  # uint8 [T, H, W, 3]
Change = Callable[[Frames, np.random.Generator], Frames]


def same(frames: Frames, rng: np.random.Generator) -> Frames:
    return frames


def resize_half(frames: Frames, rng: np.random.Generator) -> Frames:
    height, width = frames.shape[1] // 2, frames.shape[2] // 2
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


def crop_tenth(frames: Frames, rng: np.random.Generator) -> Frames:
    """A tenth of height and width is cut away, at a random place."""
    height, width = round(frames.shape[1] * 0.9), round(frames.shape[2] * 0.9)
    top = rng.integers(0, frames.shape[1] - height + 1)
    left = rng.integers(0, frames.shape[2] - width + 1)
    return frames[:, top : top + height, left : left + width]


def mirror(frames: Frames, rng: np.random.Generator) -> Frames:
    return frames[:, :, ::-1]


def trim(frames: Frames, rng: np.random.Generator) -> Frames:
    """Half of the clip is kept, from a random frame on."""
    length = max(1, len(frames) // 2)
    start = rng.integers(0, len(frames) - length + 1)
    return frames[start : start + length]


def brighten(frames: Frames, rng: np.random.Generator) -> Frames:
    return np.clip(frames * 1.15, 0, 255).astype(np.uint8)


def darken(frames: Frames, rng: np.random.Generator) -> Frames:
    return (frames * 0.85).astype(np.uint8)


def everything(frames: Frames, rng: np.random.Generator) -> Frames:
    light = brighten if rng.random() < 0.5 else darken
    return resize_half(light(mirror(crop_tenth(trim(frames, rng), rng), rng), rng), rng)


KINDS: dict[str, tuple[Change, int]] = {
    "re-encoded, crf 35": (same, 35),
    "resized by 0.5": (resize_half, 18),
    "cropped by 10 %": (crop_tenth, 18),
    "mirrored": (mirror, 18),
    "trimmed to half": (trim, 18),
    "brightness +15 %": (brighten, 18),
    "brightness -15 %": (darken, 18),
    "all at once, crf 35": (everything, 35),
}
"""Kinds of copies: the change, and the quality (crf) of H.264 in which the copy is written."""


def write_h264(path: Path, frames: Frames, crf: int, fps: int) -> Path:
    """Encode frames as H.264, equal bytes for equal frames; odd sizes lose a row or column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    with av.open(str(path), "w") as container:
        params = f"{X264}:log-level=none"
        options = {"crf": str(crf), "preset": "veryfast", "x264-params": params}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            rows = np.ascontiguousarray(picture[:height, :width])
            frame = av.VideoFrame.from_ndarray(rows, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def plant(
    frames: Frames, fps: int, folder: Path, name: str, seed: int
) -> Iterator[tuple[str, Path]]:
    """Write a copy of each kind; yields kind and file."""
    for number, (kind, (change, crf)) in enumerate(KINDS.items()):
        path = folder / f"{name}_{number}.mp4"
        if not path.is_file():
            write_h264(path, change(frames, np.random.default_rng([seed, number])), crf, fps)
        yield kind, path
