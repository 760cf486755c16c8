"""The data path, on one core: open, decode, cut views, and bring them to the device."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from endofm.bench.clock import Clock
from endofm.bench.plan import BenchConfig, Recipe
from endofm.bench.reference_views import plain_cut_views
from endofm.data.corpus.encode import ClipWriter
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.pretraining.dataset import Sample
from endofm.data.pretraining.loader import collate
from endofm.data.pretraining.views import View, cut_views, draw_indices, view_rng
from endofm.data.video import open_video
from endofm.data.video.segment import scaled_size
from endofm.data.video.timetable import forget
from endofm.synthetic import render_clip
from endofm.tasks.pretraining.endofm import network_views

PARTS = ("open", "decode", "views", "transport")
CLIP_FRAMES, CLIP_SIZE = 150, (256, 320)
RENDERED = 12
"""Frames that are really rendered; the clip goes to and fro between them."""


@dataclass(frozen=True)
class DataTime:
    """Median seconds of a core a clip, by part, and bytes of a clip on its way to the device."""

    ours: dict[str, float]
    reference: dict[str, float]
    bytes_of_ours: int
    bytes_of_reference: int
    clip: str
    """What was read."""


def time_data(config: BenchConfig, recipe: Recipe, folder: Path, device: torch.device) -> DataTime:
    """Read clips in turn, both ways; `folder` takes the clip that is made. Raises `VideoError`."""
    if config.manifest is None:
        segments, what = [make_clip(folder)], f"synthetic, {CLIP_FRAMES} frames of 256 x 320 px"
    else:
        segments = read_manifest(config.manifest)
        what = f"{len(segments)} clips of {config.manifest.name}"
    rounds = 3 if config.quick else max(10, 2 * config.repetitions)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    sizes = (0, 0)
    with one_thread():
        clock = Clock(torch.device("cpu"), "processor")
        for number in range(1 + rounds):
            segment = segments[number % len(segments)]
            views = _ours(segment, recipe, number, clock, device)
            ours = clock.taken()
            floats = _plain(segment, recipe, number, clock, device)
            plain = clock.taken()
            if number:
                found["ours"].append(ours)
                found["reference"].append(plain)
            pixels = sum(view.frames.nbytes + view.color.nbytes for view in views)
            sizes = (pixels, sum(view.nbytes for view in floats))
    ours, plain = (
        {part: statistics.median(row[part] for row in rows) for part in PARTS}
        for rows in (found["ours"], found["reference"])
    )
    return DataTime(ours, plain, sizes[0], sizes[1], what)


def _ours(
    segment: Segment, recipe: Recipe, number: int, clock: Clock, device: torch.device
) -> list[View]:
    """As `endofm.data.pretraining.dataset.clip_views` does it, with the parts timed."""
    rng = view_rng(0, number, segment.key)
    forget()  # of a large corpus every clip is new
    with clock.part("open"):
        video = open_video(segment.file, recipe.data.reader)
    with video:
        length = segment.num_frames or len(video) - segment.start_frame
        drawn = draw_indices(length, recipe.views, rng)
        chosen = sorted({index for indices in drawn for index in indices})
        with clock.part("decode"):
            size = scaled_size(video.size, recipe.data.short_side_pixels)
            frames = video.read([segment.start_frame + index for index in chosen], size)
    where = {index: row for row, index in enumerate(chosen)}
    with clock.part("views"):
        views = cut_views(frames, [[where[i] for i in view] for view in drawn], recipe.views, rng)
    with clock.part("transport"):
        network_views(collate([Sample(views, segment.name, ())]), recipe.views, device)
    return views


def _plain(
    segment: Segment, recipe: Recipe, number: int, clock: Clock, device: torch.device
) -> list[torch.Tensor]:
    """Every frame decoded and converted, then float views."""
    rng = view_rng(0, number, segment.key)
    forget()  # of a large corpus every clip is new
    with clock.part("open"):
        video = open_video(segment.file, recipe.data.reader)
    with video:
        length = segment.num_frames or len(video) - segment.start_frame
        with clock.part("decode"):
            size = scaled_size(video.size, recipe.data.short_side_pixels)
            frames = video.read(range(segment.start_frame, segment.start_frame + length), size)
    drawn = draw_indices(length, recipe.views, rng)
    with clock.part("views"):
        views = plain_cut_views(torch.from_numpy(frames), drawn, recipe.views, rng)
    with clock.part("transport"):
        for view in views:
            torch.stack([view]).to(device)
    return views


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker."""
    threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(of_opencv)


def make_clip(folder: Path) -> Segment:
    """A clip as `endofm corpus prepare` writes it: 5 s at 30 frames a second, short side 256."""
    frames = render_clip(0, num_frames=RENDERED, height=CLIP_SIZE[0], width=CLIP_SIZE[1]).frames
    to_and_fro = np.concatenate([frames, frames[-2:0:-1]])
    with ClipWriter(folder / "clip.mp4", "h264", 30.0, crf=18, gop_frames=12) as clip:
        for number in range(CLIP_FRAMES):
            clip.add(to_and_fro[number % len(to_and_fro)])
        clip.finish()
    return Segment(folder, "clip.mp4", 0, CLIP_FRAMES)
