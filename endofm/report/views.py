"""A sheet of what the network sees: every view of some clips, frame by frame."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from endofm.data.pretraining.dataset import ClipViews, Corpus, DataConfig
from endofm.data.pretraining.views import View, ViewsConfig
from endofm.data.transforms import to_network_input
from endofm.files import write_bytes

THUMB, GAP, MARGIN = 56, 2, 92

Image = npt.NDArray[np.uint8]


def draw_views(path: Path, corpus: Corpus, data: DataConfig, views: ViewsConfig, seed: int) -> None:
    """Write a PNG with the views of the first clips of a run."""
    write_png(path, views_sheet(corpus, data, views, seed))


def views_sheet(
    corpus: Corpus, data: DataConfig, views: ViewsConfig, seed: int, num_clips: int = 3
) -> Image:
    """The views of the first clips of a run, just as the run itself cuts them."""
    clips = ClipViews(corpus, data, views, seed)
    samples = [clips[position] for position in range(min(num_clips, clips.order.epoch_length))]
    blocks = [clip_block(sample.views, views, sample.name) for sample in samples]
    return stack(blocks)


def clip_block(cut: list[View], views: ViewsConfig, title: str) -> Image:
    """One clip: a line of text, then a row for each view."""
    rows = [_text_line(title)]
    for number, (view, (frames, pixels)) in enumerate(zip(cut, views.shapes, strict=True)):
        kind = "global" if number < len(views.global_frames) else "local"
        rows.append(_row(view, f"{kind} {frames} x {pixels}"))
    return stack(rows)


def visible(view: View) -> Image:
    """A view's frames with its colours applied: uint8 [T, H, W, 3]."""
    zero, one = torch.zeros(3), torch.ones(3)
    clip = to_network_input(view.frames[None], view.color[None], zero, one)[0]
    array: Image = (clip.permute(1, 2, 3, 0) * 255).round().byte().numpy()
    return array


def stack(rows: list[Image]) -> Image:
    """Pictures below each other, padded with white to one width."""
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.concatenate(padded)


def write_png(path: Path, image: Image) -> None:
    """Write RGB pixels as a PNG. Raises `OutputError` where it can't be written."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    write_bytes(path, encoded.tobytes())


def _row(view: View, label: str) -> Image:
    frames = [
        cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for frame in visible(view)
    ]
    strip = np.concatenate(
        [np.pad(f, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for f in frames], 1
    )
    tag = np.full((THUMB, MARGIN, 3), 255, np.uint8)
    cv2.putText(
        tag,
        label,
        (4, THUMB // 2 + 4),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.38,
        (60, 60, 60),
        1,
        cv2.LINE_AA,
    )
    return np.concatenate([tag, strip], axis=1)


def _text_line(text: str) -> Image:
    line = np.full((20, MARGIN + 10 * len(text), 3), 255, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(line, plain, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return line
