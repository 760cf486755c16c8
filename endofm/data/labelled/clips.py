"""Labelled clips: (position in a run) -> a sample to learn from, and clip by clip to be judged.

The randomness of a training sample is a function of (seed, pass over the rows, clip), as in
pretraining. Frames, masks and boxes of a sample share one draw of geometry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endofm.data.labelled.annotations import read_boxes, read_masks
from endofm.data.labelled.geometry import Geometry, draw_geometry, square, whole
from endofm.data.labelled.moments import (
    around,
    cover,
    draw_run,
    draw_spread,
    run,
    spaced_run,
    spread,
)
from endofm.data.labelled.references import reference_frames
from endofm.data.labelled.samples import PLAIN, ClipSpec, LabelledSample
from endofm.data.loading.workers import Clips
from endofm.data.manifests.labels import truth_of
from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Broken, Corpus, SampleOrder, none_decodes
from endofm.data.pretraining.views import view_rng
from endofm.data.transforms import draw_color
from endofm.data.video import open_video
from endofm.data.video.segment import checked_length, scaled_size
from endofm.errors import ManifestError, VideoError

TRAINING_REFERENCES, TEST_REFERENCES = 2, 10
"""Frames beside a key frame, within 9 frames of it, as released."""


class TrainingClips(Clips[LabelledSample]):
    """Positions of a run -> samples. A broken clip is reported and another takes its place."""

    def __init__(
        self,
        corpus: Corpus,
        clip_spec: ClipSpec,
        seed: int,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Rows of `corpus` in the order of `seed`; with `features` [V, D] by clip, those."""
        super().__init__()
        self.parts, self.clip_spec, self.seed = corpus.parts, clip_spec, seed
        self.order = SampleOrder(corpus, seed)
        self.features = features

    def __getitem__(self, position: int) -> LabelledSample:
        """The sample at a position of the run; raises `VideoError` if none of 100 draws decodes."""
        broken: list[Broken] = []
        place = self.order.at(position)
        for attempt in range(100):
            segment = self.parts[place.part][place.row]
            try:
                sample = self._read(segment, place.epoch, position)
                return sample._replace(broken=tuple(broken))
            except VideoError as error:
                self.left_out[segment.name] = str(error)
                broken.append(Broken(segment.name, str(error)))
                place = self.order.instead(position, attempt)
        raise none_decodes(broken, sum(self.order.sizes))

    def _read(self, segment: Segment, epoch: int, position: int) -> LabelledSample:
        self.begin(segment.name)
        if self.features is not None:
            return stored_sample(segment, self.clip_spec, self.features[segment.name][:1])
        rng = view_rng(self.seed, epoch, segment.key)
        return training_sample(segment, self.clip_spec, rng)


class Piece(NamedTuple):
    """What is judged at once: a row, or some frames of it."""

    segment: Segment
    indices: tuple[int, ...] = ()
    key: int = 0


class EvaluationClips(Clips[LabelledSample | Broken]):
    """Pieces as the test shows them: nothing is drawn, nothing replaced; a broken one is told."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        clip_spec: ClipSpec,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """With `features` [V, D] by clip, those instead of frames."""
        super().__init__()
        self.pieces, self.clip_spec, self.features = pieces, clip_spec, features

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> LabelledSample | Broken:
        """A piece, or why it can't be judged."""
        piece = self.pieces[number]
        try:
            self.begin(piece.segment.name)
            if self.features is not None:
                stored = self.features[piece.segment.name]
                sample = stored_sample(piece.segment, self.clip_spec, stored)
            elif self.clip_spec.is_dense:
                sample = dense_sample(piece, self.clip_spec)
            else:
                sample = viewed_sample(piece.segment, self.clip_spec)
        except VideoError as error:
            return Broken(piece.segment.name, str(error))
        return sample._replace(number=number)


def evaluation_rows(segments: Sequence[Segment], every_frames: int) -> list[Segment]:
    """The rows themselves, or each frame of them that is judged, as a row of one frame.

    The frames are the multiples of `every_frames` in the file, so that the windows around them
    don't depend on where labels begin. Opens files only where a row leaves its end open.
    """
    if not every_frames:
        return list(segments)
    rows = []
    for segment in segments:
        stop = segment.start_frame + clip_length(segment)
        first = -(-segment.start_frame // every_frames) * every_frames
        rows += [
            replace(segment, start_frame=frame, stop_frame=frame + 1)
            for frame in range(first, stop, every_frames)
        ]
    if not rows:
        raise ManifestError(
            f"No row holds a frame whose number is a multiple of data.every_frames "
            f"({every_frames}); lower it."
        )
    return rows


def pieces_of(segments: Sequence[Segment], clip_spec: ClipSpec) -> list[Piece]:
    """Everything that a test judges; every frame of a row where frames are judged."""
    if not clip_spec.is_dense:
        return [Piece(segment) for segment in segments]
    pieces = []
    for segment in segments:
        length = clip_length(segment)
        if clip_spec.is_video_detection:
            clips = (reference_frames(key, length, TEST_REFERENCES) for key in range(length))
            pieces += [Piece(segment, clip.indices, clip.key) for clip in clips]
        else:
            runs = cover(length, clip_spec.frames, clip_spec.stride)
            pieces += [Piece(segment, tuple(indices)) for indices in runs]
    return pieces


def clip_length(segment: Segment) -> int:
    """Frames of a row; opens the file where the manifest leaves the end open."""
    if segment.num_frames is not None:
        return segment.num_frames
    with open_video(segment.file) as video:
        return checked_length(segment, len(video))


def training_sample(
    segment: Segment,
    clip_spec: ClipSpec,
    rng: np.random.Generator,
    within: Callable[[int], range] | None = None,
) -> LabelledSample:
    """A clip as training sees it: one draw of time, geometry and colour.

    `within` says of which frames of a row of so many one is to be the clip's middle.
    """
    data, key = clip_spec.data, 0

    def choose(length: int) -> list[int]:
        nonlocal key
        if clip_spec.is_video_detection:
            near = int(rng.integers(0, length))
            clip = reference_frames(near, length, TRAINING_REFERENCES, generator=rng)
            key = clip.key
            return list(clip.indices)
        if within is not None:
            middle = int(rng.choice(within(length)))
            return around(middle, clip_spec.frames, clip_spec.stride, length)
        if data.stride or clip_spec.is_dense:
            return draw_run(length, clip_spec.frames, clip_spec.stride, rng)
        return draw_spread(length, clip_spec.frames, rng)

    if data.is_plain and within is None and not clip_spec.is_dense:
        return viewed_sample(segment, clip_spec, only_first=True)
    low = data.crop_area[0]
    short_side = min(round(clip_spec.pixels / low**0.5), 2 * clip_spec.pixels)
    frames, indices, size = _read(segment, clip_spec, choose, short_side)
    geometry = draw_geometry(
        (frames.shape[1], frames.shape[2]),
        clip_spec.pixels,
        data.crop_area,
        data.rotate_degrees,
        data.flip,
        not clip_spec.is_dense,
        rng,
    )
    window = geometry.frames(frames)
    color = PLAIN
    if any(data.color_jitter):
        mean = window.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 255
        color = draw_color(mean, data.color_jitter, rng, greyscale=0.0)
    truth = _truth(segment, clip_spec, indices, size, geometry, key)
    return _sample(window[None], color[None], truth, segment, indices, size, key)


def viewed_sample(
    segment: Segment, clip_spec: ClipSpec, only_first: bool = False
) -> LabelledSample:
    """A row as the test shows it to a classifier: `test_views` clips and crops."""
    clips, crops = (1, 1) if only_first or clip_spec.legacy else clip_spec.data.test_views

    def choose(length: int) -> list[int]:
        num, stride = clip_spec.frames, clip_spec.data.stride
        if clip_spec.legacy:
            return run(0, num, clip_spec.stride, length)
        return [
            index
            for clip in range(clips)
            for index in (
                spaced_run(length, num, stride, clip, clips)
                if stride
                else spread(length, num, clip, clips)
            )
        ]

    frames, indices, size = _read(segment, clip_spec, choose, clip_spec.pixels)
    shown = (frames.shape[1], frames.shape[2])
    if clip_spec.legacy:
        geometries = [square(shown, clip_spec.pixels, 0, 3)]
    else:
        geometries = [square(shown, clip_spec.pixels, crop, crops) for crop in range(crops)]
    parts = frames.reshape(-1, clip_spec.frames, *frames.shape[1:])
    views = np.stack([geometry.frames(part) for part in parts for geometry in geometries])
    colors = np.tile(PLAIN, (len(views), 1, 1))
    truth = _truth(segment, clip_spec, indices, size, geometries[0], 0)
    return _sample(views, colors, truth, segment, indices, size, 0)


def dense_sample(piece: Piece, clip_spec: ClipSpec) -> LabelledSample:
    """Some frames of a row whole, with their truth at the file's own size."""
    frames, indices, size = _read(
        piece.segment, clip_spec, lambda length: list(piece.indices), clip_spec.pixels
    )
    geometry = whole((frames.shape[1], frames.shape[2]), clip_spec.pixels)
    truth = _truth(piece.segment, clip_spec, indices, size, None, piece.key)
    colors = PLAIN[None]
    window = geometry.frames(frames)[None]
    return _sample(window, colors, truth, piece.segment, indices, size, piece.key)


def stored_sample(segment: Segment, clip_spec: ClipSpec, features: Tensor) -> LabelledSample:
    """Features [V, D] in the place of frames."""
    truth = _truth(segment, clip_spec, [], (0, 0), None, 0)
    colors = torch.from_numpy(np.tile(PLAIN, (len(features), 1, 1)))
    return LabelledSample(features, colors, truth, segment, (), (0, 0), 0)


def _read(
    segment: Segment, clip_spec: ClipSpec, choose: Callable[[int], list[int]], short_side: int
) -> tuple[npt.NDArray[np.uint8], list[int], tuple[int, int]]:
    """Frames uint8 [n, h, w, 3], their numbers from the clip's start, and the file's own size."""
    with open_video(segment.file) as video:
        length, first = checked_length(segment, len(video)), segment.start_frame
        if clip_spec.data.every_frames:
            near = around(first, clip_spec.frames, clip_spec.stride, len(video))
            indices = [frame - first for frame in near]
        else:
            indices = choose(length)
        size = scaled_size(video.size, short_side)
        frames = video.read([first + index for index in indices], size)
        return frames, indices, video.size


def _truth(
    segment: Segment,
    clip_spec: ClipSpec,
    indices: Sequence[int],
    size: tuple[int, int],
    geometry: Geometry | None,
    key: int,
) -> Any:
    """What a sample is to be; in the square of a geometry, or at the file's own size."""
    if not clip_spec.is_dense:
        several = clip_spec.kind == "multi_label"
        return truth_of(segment, clip_spec.data.label, clip_spec.classes, several)
    if clip_spec.kind == "segmentation":
        masks = read_masks(segment, indices, len(clip_spec.classes), size)
        return masks if geometry is None else geometry.masks(masks)
    judged = [indices[key]] if clip_spec.is_video_detection else indices
    boxes = read_boxes(segment, judged, clip_spec.classes)
    return boxes if geometry is None else [geometry.boxes(one, size) for one in boxes]


def _sample(
    views: npt.NDArray[np.uint8],
    colors: npt.NDArray[np.float32],
    truth: Any,
    segment: Segment,
    indices: Sequence[int],
    size: tuple[int, int],
    key: int,
) -> LabelledSample:
    return LabelledSample(
        torch.from_numpy(np.ascontiguousarray(views)),
        torch.from_numpy(np.ascontiguousarray(colors)),
        truth,
        segment,
        tuple(indices),
        size,
        key,
    )
