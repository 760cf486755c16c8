"""What a model sees in a video, frame by frame: a film or a sheet of attention and features."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from endofm.data.videos.clips import center_square
from endofm.data.videos.stream import Recorded, Source, open_clips
from endofm.data.videos.windows import Clip, Frame, Sliding
from endofm.errors import ConfigError
from endofm.models.outputs import check_model, compute
from endofm.models.timesformer import TimeSformer
from endofm.report.features import (
    FULL_HEAT,
    PrincipalColors,
    Seen,
    feature_sheet,
    foreground,
    heat,
)
from endofm.report.film import film
from endofm.report.views import Image, write_png

PANEL, LINE = 320, 28
"""Side of a picture and height of the line above it, in pixels; H.264 wants them even."""
SHEET_CLIPS, SAMPLE_CLIPS = 6, 8
RATELESS_FPS = 8
"""Frames of a folder are shown this fast where nothing tells its rate."""

Progress = Callable[[int, int], None]
Pair = tuple[Image, Image]


@dataclass(frozen=True)
class Scale:
    """What stays the same for a whole film: the colors of features and the hottest heat."""

    colors: PrincipalColors
    full_heat: float


def draw_video(
    path: Path,
    model: TimeSformer,
    source: Source,
    *,
    clip_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> None:
    """Write `.mp4` (every frame that touching clips take, at their pace) or `.png` (six clips).

    Side by side: the frame, as the square that the model sees; its attention (`heat`); the first
    three principal components of its patch tokens as colors. A film's colors and heat are fitted to
    8 clips spread over the video and stay the same for all of it; a sheet's to what it shows. The
    video is read in one pass, and its frames are not kept. The file appears whole or not at all.

    Raises `ConfigError` for another ending, else as `embed` does.
    """
    if path.suffix not in (".mp4", ".png"):
        raise ConfigError(f"{path} ends neither in .mp4 nor in .png; give it one of them.")
    check_model(model)
    sliding = Sliding(model.input_spec.num_frames, clip_seconds, source_fps=source_fps)
    with open_clips(source, sliding) as video:
        if not isinstance(video, Recorded):
            raise ConfigError(f"{video.name} can be read only once; give a file or pictures.")
        if path.suffix == ".png":
            write_png(path, _sheet(model, video))
        else:
            _film(path, model, video, batch_size, progress)


def _sheet(model: TimeSformer, video: Recorded) -> Image:
    pixels = model.input_spec.pixels
    some = list(_some(video, SHEET_CLIPS, lambda frame: center_square(frame[None], pixels)[0]))
    names = [_place(video, clip.window.start, clip.window.stop) for clip in some]
    return feature_sheet(model, np.stack([np.stack(clip.frames) for clip in some]), names)


def _film(
    path: Path, model: TimeSformer, video: Recorded, batch_size: int, progress: Progress | None
) -> None:
    pixels = model.input_spec.pixels

    def prepare(frame: Image) -> Pair:
        return center_square(frame[None], pixels)[0], center_square(frame[None], PANEL)[0]

    scale = _scale([_seen(model, [clip]) for clip in _some(video, SAMPLE_CLIPS, prepare)])
    done = 0
    with film(path, (LINE + PANEL, 3 * PANEL), _pace(video)) as show:
        remaining = video.clips(prepare)
        while batch := list(islice(remaining, batch_size)):
            seen = _seen(model, batch)
            is_shown = foreground(seen)
            colors = scale.colors.paint(seen.tokens, is_shown)
            for number, clip in enumerate(batch):
                for place in range(_num_new(video, clip)):
                    at = clip.window.start + video.spacing.half * (2 * place + 1)
                    picture = clip.frames[place][1]
                    warm = heat(picture, seen.attention[number, place], scale.full_heat)
                    show(_row(picture, warm, colors[number, place], _place(video, at), scale))
            done += len(batch)
            if progress is not None:
                progress(done, len(video.windows))


def _some(video: Recorded, count: int, prepare: Callable[[Image], Frame]) -> Iterator[Clip[Frame]]:
    """Clips spread evenly over a video."""
    windows = video.windows
    chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    return video.clips(prepare, [windows[number] for number in chosen])


def _seen(model: TimeSformer, clips: list[Clip[Pair]]) -> Seen:
    frames = np.stack([np.stack([small for small, _ in clip.frames]) for clip in clips])
    outputs = compute(model, frames, tokens=True, attention=True)
    assert outputs.tokens is not None and outputs.attention is not None
    return Seen(frames, outputs.tokens, outputs.attention)


def _scale(sample: list[Seen]) -> Scale:
    tokens = np.concatenate([seen.tokens for seen in sample])
    shown = np.concatenate([foreground(seen) for seen in sample])
    hottest = np.percentile(np.concatenate([seen.attention for seen in sample]), 99)
    return Scale(PrincipalColors.fit(tokens, shown), max(FULL_HEAT, float(hottest)))


def _pace(video: Recorded) -> Fraction:
    """Frames a second of the film: a clip's frames last as long as the clip."""
    if not video.has_rate:
        return Fraction(RATELESS_FPS)
    return Fraction(video.spacing.num_frames / video.spacing.length).limit_denominator(1000)


def _num_new(video: Recorded, clip: Clip[Pair]) -> int:
    """How many of a clip's frames are of the video, rather than its last frame repeated."""
    lasts = clip.window.stop - clip.window.start
    num = math.ceil(lasts / (2 * video.spacing.half) - 0.5)
    return min(max(num, 1), len(clip.frames))


def _place(video: Recorded, *times: float) -> str:
    if video.has_rate:
        return " to ".join(f"{time:.2f}" for time in times) + " s"
    return "frames " + " to ".join(f"{math.floor(time)}" for time in times)


def _row(picture: Image, warm: Image, color: np.ndarray, place: str, scale: Scale) -> Image:
    """The line of text above three panels: uint8 [LINE + PANEL, 3 PANEL, 3]."""
    patches = (color * 255).round().astype(np.uint8)
    painted = cv2.resize(patches, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
    line = np.full((LINE, 3 * PANEL, 3), 255, np.uint8)
    texts = (place, f"attention, white {scale.full_heat:.1f} x even", "features")
    for number, text in enumerate(texts):
        at, ink, font = (number * PANEL + 6, LINE - 9), (40, 40, 40), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(line, text, at, font, 0.52, ink, 1, cv2.LINE_AA)
    return np.concatenate([line, np.concatenate([picture, warm, painted], axis=1)])
