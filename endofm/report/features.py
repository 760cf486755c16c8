"""Sheets of what a model sees in clips: its patch tokens as colours, its attention as heat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from einops import rearrange

from endofm.models.outputs import Floats, compute
from endofm.models.timesformer import TimeSformer
from endofm.report.views import Image, stack

THUMB, GAP, MARGIN, LINE = 128, 3, 94, 30
BLACK, BRIGHT_SHARE = 16, 0.75
"""A patch with fewer brighter pixels is border: the black around an endoscope's picture."""
FULL_HEAT = 3.0
"""The heat scale reaches at least this many times an even share, so that even attention looks so.
"""


@dataclass(frozen=True)
class Seen:
    """What a model makes of the shown frames: S clips, F frames each, on its grid of patches."""

    frames: Image  # [S, F, H, W, 3]
    tokens: Floats  # [S, F, h, w, D]
    attention: Floats  # [S, F, h, w], as multiples of an even share


def feature_sheet(
    model: TimeSformer,
    clips: npt.NDArray[np.uint8],
    names: Sequence[str] = (),
    num_shown: int = 4,
) -> Image:
    """A picture of clips uint8 [S, T, H, W, 3]: frames, features and attention, frame by frame.

    Features: the first three principal components of the patch tokens of all shown frames, as red,
    green and blue; an endoscope's black border stays black. Attention: the last block's, of the
    class token, mean of its heads. H and W must be tiled by the model's patches; `names` stand
    above the clips.
    """
    return compare_sheet({"": model}, clips, names, num_shown)


def compare_sheet(
    models: Mapping[str, TimeSformer],
    clips: npt.NDArray[np.uint8],
    names: Sequence[str] = (),
    num_shown: int = 4,
) -> Image:
    """`feature_sheet` of several models beside each other, under their names.

    Every model has principal components of its own; the heat scale is the same for all.
    """
    seen = [look(model, clips, num_shown) for model in models.values()]
    full = max([FULL_HEAT, *(float(np.percentile(one.attention, 99)) for one in seen)])
    colors = [principal_colors(one.tokens, foreground(one)) for one in seen]
    blocks = []
    for clip in range(len(clips)):
        title = names[clip] if clip < len(names) else f"clip {clip + 1}"
        panels = [_panel(one, color, clip, full) for one, color in zip(seen, colors, strict=True)]
        if clip == 0 and any(models):
            blocks.append(_captions(list(models), panels[0].shape[1]))
        blocks.append(_text(title, LINE, 0.56))
        blocks.append(np.concatenate([_row_names(panels[0].shape[0]), *panels], axis=1))
    blocks.append(_text(f"attention: black 0, white {full:.1f} times an even share", LINE, 0.5))
    return stack(blocks)


def look(model: TimeSformer, clips: npt.NDArray[np.uint8], num_shown: int) -> Seen:
    """Tokens and attention of `num_shown` frames, spread evenly, of clips [S, T, H, W, 3]."""
    num_frames = clips.shape[1]
    shown = np.linspace(0, num_frames - 1, min(num_shown, num_frames)).round().astype(int)
    tokens, attention = [], []
    for clip in clips:
        outputs = compute(model, clip[None], tokens=True, attention=True)
        assert outputs.tokens is not None and outputs.attention is not None
        tokens.append(outputs.tokens[0, shown])
        attention.append(outputs.attention[0, shown])
    return Seen(clips[:, shown], np.stack(tokens), np.stack(attention))


@dataclass(frozen=True)
class PrincipalColors:
    """The first three principal components of some tokens, as red, green and blue of any."""

    mean: npt.NDArray[np.float64]  # [D]
    directions: npt.NDArray[np.float64]  # [D, 3]
    low: npt.NDArray[np.float64]  # [3]
    high: npt.NDArray[np.float64]  # [3]

    @classmethod
    def fit(cls, tokens: Floats, shown: npt.NDArray[np.bool_]) -> "PrincipalColors":
        """Of the tokens [..., D] that `shown` [...] marks, or of all where it marks none.

        Each color runs from its component's 2nd to its 98th percentile.
        """
        rows = tokens[shown if shown.any() else np.ones_like(shown)].astype(np.float64)
        mean = rows.mean(axis=0)
        _, directions = np.linalg.eigh((rows - mean).T @ (rows - mean))
        directions = directions[:, ::-1][:, :3]
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, range(directions.shape[1])])
        low, high = np.percentile((rows - mean) @ directions, [2, 98], axis=0)
        return cls(mean, directions, low, high)

    def paint(self, tokens: Floats, shown: npt.NDArray[np.bool_]) -> Floats:
        """Tokens [..., D] as RGB in [0, 1], [..., 3]; black where `shown` [...] does not mark."""
        parts = (tokens - self.mean) @ self.directions
        scaled = np.clip((parts - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)
        colors: Floats = (scaled * shown[..., None]).astype(np.float32)
        return colors


def principal_colors(tokens: Floats, shown: npt.NDArray[np.bool_]) -> Floats:
    """Tokens [..., D] in the colors of those that `shown` marks; where it marks none, of all."""
    marked = shown if shown.any() else np.ones_like(shown)
    return PrincipalColors.fit(tokens, marked).paint(tokens, marked)


def foreground(seen: Seen) -> npt.NDArray[np.bool_]:
    """Which patches show something, rather than black border: [S, F, h, w]."""
    rows, columns = seen.attention.shape[-2:]
    brightness = seen.frames.mean(axis=-1)
    patches = rearrange(brightness, "s f (h y) (w x) -> s f h w (y x)", h=rows, w=columns)
    shows: npt.NDArray[np.bool_] = (patches >= BLACK).mean(axis=-1) >= BRIGHT_SHARE
    return shows


def heat(frame: Image, attention: Floats, full: float) -> Image:
    """A frame in grey under its attention [h, w]; `full` is the hottest colour's value."""
    import matplotlib as mpl

    height, width = frame.shape[:2]
    grey = frame.mean(axis=-1, keepdims=True) / 255
    smooth = cv2.resize(attention, (width, height), interpolation=cv2.INTER_LINEAR)
    level = np.clip(smooth / full, 0, 1)
    warm, cover = mpl.colormaps["inferno"](level)[..., :3], 0.3 + 0.6 * level[..., None]
    mixed: Image = ((0.8 * (1 - cover) * grey + cover * warm) * 255).round().astype(np.uint8)
    return mixed


def _panel(seen: Seen, colors: Floats, clip: int, full: float) -> Image:
    """One model and clip: rows of frames, features and attention."""
    frames = [_thumb(frame) for frame in seen.frames[clip]]
    features = [_thumb((color * 255).round().astype(np.uint8)) for color in colors[clip]]
    warm = [heat(*pair, full) for pair in zip(frames, seen.attention[clip], strict=True)]
    rows = (frames, features, warm)
    strips = [np.concatenate([_padded(one) for one in row], axis=1) for row in rows]
    panel: Image = np.pad(
        np.concatenate(strips), ((0, 0), (0, 4 * GAP), (0, 0)), constant_values=255
    )
    return panel


def _thumb(picture: Image) -> Image:
    """Scaled to `THUMB` on its longer side."""
    scale = THUMB / max(picture.shape[:2])
    how = cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    resized: Image = cv2.resize(picture, size, interpolation=how)
    return resized


def _padded(picture: Image) -> Image:
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _captions(names: list[str], width: int) -> Image:
    """The models' names above their panels, each of that width."""
    line = np.full((LINE + 6, MARGIN + width * len(names), 3), 255, np.uint8)
    for number, name in enumerate(names):
        _write(line, name, (MARGIN + number * width, LINE - 6), 0.72)
    return line


def _row_names(height: int) -> Image:
    column = np.full((height, MARGIN, 3), 255, np.uint8)
    for number, name in enumerate(("frame", "features", "attention")):
        _write(column, name, (4, (2 * number + 1) * height // 6 + 4), 0.52)
    return column


def _text(text: str, height: int, size: float) -> Image:
    (width, _), _ = cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    line = np.full((height, MARGIN + width + GAP, 3), 255, np.uint8)
    _write(line, text, (MARGIN, height - 9), size)
    return line


def _write(picture: Image, text: str, place: tuple[int, int], size: float) -> None:
    ink, font = (40, 40, 40), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, _plain(text), place, font, size, ink, 1, cv2.LINE_AA)


def _plain(text: str) -> str:
    """The font has ASCII only."""
    return text.encode("ascii", "replace").decode()
