"""A whole video as features: clips that slide over it, through a frozen model."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from endofm.data.videos.clips import center_square
from endofm.data.videos.stream import Source, open_clips
from endofm.data.videos.windows import Clip, Sliding
from endofm.errors import ConfigError
from endofm.models.outputs import Floats, check_model, compute
from endofm.models.registry import Backbone
from endofm.models.timesformer import TimeSformer
from endofm.tasks.embedding.files import read_embedding, write_embedding

Seconds = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of N clips in the order of the video, and where each clip lies."""

    features: Floats
    """[N, D]: the class token after the last norm, what `model(clip)` gives."""
    start_seconds: Seconds
    """[N], from the first frame; `nan` where nothing tells the source's rate."""
    stop_seconds: Seconds
    """[N]; no later than the end of the video."""
    tokens: Floats | None = None
    """[N, T, h, w, D]: patch tokens after the last norm, if asked for."""
    attention: Floats | None = None
    """[N, T, h, w], if asked for: the last block's, from the class token; 1 is an even share."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, as `endofm embed` notes it."""

    def __len__(self) -> int:
        return len(self.features)

    def save(self, path: str | Path) -> None:
        """Write `.npz`, or `.parquet` with a row a clip; the file appears whole or not at all.

        Raises `ConfigError` for another ending, and for `.parquet` without pyarrow.
        """
        arrays = {one.name: getattr(self, one.name) for one in fields(self)[:-1]}
        present = {name: array for name, array in arrays.items() if array is not None}
        write_embedding(Path(path), present, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> "Embedding":
        """Read what `save` wrote. Raises `RunError` for a file that is not whole, or another's."""
        arrays, settings = read_embedding(Path(path))
        return cls(**arrays, settings=settings)


def embed(
    model: TimeSformer,
    source: Source,
    *,
    clip_seconds: float | None = None,
    step_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    tokens: bool = False,
    attention: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Embedding:
    """Features of the clips that slide over a video, however long, with their times.

    A clip has `model.input_spec.num_frames` frames, evenly over `clip_seconds` (5 s); the next
    begins `step_seconds` later (`clip_seconds`: they touch). The last clip, or the only one of a
    short video, repeats the last frame. Where nothing tells the rate of a source (arrays, pictures,
    no `source_fps`), a clip is frames in a row and its times are `nan`. Of each frame the model
    sees the middle square. It computes `batch_size` clips at a time, on its own device and in its
    own precision. `progress` is told the clips done and all of them, `None` where nobody knows.

    One pass over the frames, which are not kept: only the result grows with the video. Raises
    `VideoError` for a source that can't be read, `ConfigError` for options that can't be, and
    `RunError` where the GPU's memory is too small.
    """
    check_model(model)
    spec = model.input_spec
    sliding = Sliding(spec.num_frames, clip_seconds, step_seconds, source_fps)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    parts, done = [], 0
    with open_clips(source, sliding) as video:
        clips = video.clips(lambda frame: center_square(frame[None], spec.pixels)[0])
        for batch in _batches(clips, batch_size):
            outputs = compute(
                model,
                np.stack([np.stack(clip.frames) for clip in batch]),
                tokens=tokens,
                attention=attention,
            )
            times = [(clip.window.start, clip.window.stop) for clip in batch]
            parts.append(
                (outputs.features, np.array(times, np.float64), outputs.tokens, outputs.attention)
            )
            done += len(batch)
            if progress is not None:
                progress(done, video.num_clips)
    features, bounds, patches, maps = (_joined(column) for column in zip(*parts, strict=True))
    if not video.has_rate:
        bounds[:] = math.nan
    return Embedding(features, bounds[:, 0], bounds[:, 1], patches, maps)


def fingerprint(model: Backbone) -> str:
    """A short name of weights, architecture and input: the same wherever they were loaded from."""
    digest = hashlib.blake2b(f"{model.config} {model.input_spec}".encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _batches(clips: Iterable[Clip[Pixels]], batch_size: int) -> Iterator[list[Clip[Pixels]]]:
    remaining = iter(clips)
    while batch := list(islice(remaining, batch_size)):
        yield batch


def _joined(arrays: tuple[Any, ...]) -> Any:
    return None if arrays[0] is None else np.concatenate(arrays)
