"""(position in the run) -> a clip's views, and the order of a run."""

import functools
import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from endofm.data.loading.workers import Clips
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.manifests.quarantine import quarantine_file, without_quarantined
from endofm.data.pretraining.views import View, ViewsConfig, cut_views, draw_indices, view_rng
from endofm.data.video import read_segment
from endofm.data.video.base import check_kind, look_at
from endofm.data.video.shards import in_shard, missing_reason
from endofm.errors import ConfigError, ManifestError, VideoError

MIN_CLIP_FRAMES = 2
"""A clip of one frame has no time to learn from."""


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from."""

    manifests: tuple[Path, ...] = ()
    """Manifests of the corpus (`endofm manifest FOLDER OUT.csv` makes one)."""
    root: Path | None = None
    """Folder that the manifests' paths start from; by default each manifest's own."""
    weights: tuple[float, ...] = ()
    """How often an epoch shows each manifest's clips (0.5: half of them, 2: each twice); default 1.
    """
    split: str = ""
    """Take only rows of this split; by default all."""
    reader: Literal["pyav", "decord", "opencv"] = "pyav"
    """Video decoder; pyav is exact on every readable file."""
    short_side_pixels: int = 256
    """Frames are scaled down (never up) to this short side while decoding."""
    workers: int = 2
    """Processes that decode, for each training process; 0 decodes in the training process."""
    max_broken_share: float = 0.05
    """The run stops when more than this share of the clips can't be decoded."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.weights and len(self.weights) != len(self.manifests):
            raise ConfigError(
                f"data.weights has {len(self.weights)} values for {len(self.manifests)} manifests; "
                "give one for each."
            )
        if any(weight <= 0 for weight in self.weights):
            raise ConfigError(f"data.weights is {list(self.weights)}; every weight is above 0.")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}; give 0 or more.")
        if self.short_side_pixels < 16:
            raise ConfigError(
                f"data.short_side_pixels is {self.short_side_pixels}; give 16 or more."
            )
        if not 0 <= self.max_broken_share <= 1:
            raise ConfigError(f"data.max_broken_share is {self.max_broken_share}; give 0 to 1.")


class Broken(NamedTuple):
    """A clip that can't be used, and why."""

    name: str
    reason: str


class Place(NamedTuple):
    """What one position of a run shows: a segment, in which pass over its manifest."""

    part: int
    row: int
    epoch: int


@dataclass(frozen=True)
class Corpus:
    """Segments of several manifests, and how often an epoch shows each manifest."""

    parts: tuple[tuple[Segment, ...], ...]
    weights: tuple[float, ...]
    num_quarantined: int = 0
    """Clips that were left out because a list beside their manifest says so."""

    @property
    def segments(self) -> list[Segment]:
        """All segments, manifest by manifest."""
        return [segment for part in self.parts for segment in part]

    @property
    def fingerprint(self) -> str:
        """Changes with any clip, its place, or a weight; not with where the files lie."""
        text = repr(([[segment.name for segment in part] for part in self.parts], self.weights))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def takes(self) -> list[int]:
        """Clips that an epoch takes from each manifest."""
        pairs = zip(self.parts, self.weights, strict=True)
        return [max(1, round(weight * len(part))) for part, weight in pairs]


def load_corpus(config: DataConfig) -> Corpus:
    """Read the manifests and keep the rows of the split; files are not opened.

    Clips that a list beside their manifest puts in quarantine are left out.
    Raises `ConfigError` without a manifest, `ManifestError` for a bad or empty one.
    """
    if not config.manifests:
        raise ConfigError(
            "data.manifests is empty; `endofm manifest FOLDER clips.csv` makes one from a folder "
            "of "
            "videos, then give --data.manifests clips.csv."
        )
    parts, num_quarantined = [], 0
    for manifest in config.manifests:
        rows = read_manifest(manifest, config.root)
        kept = tuple(row for row in rows if config.split in ("", row.split))
        if not kept:
            found = ", ".join(sorted({row.split or "(empty)" for row in rows}))
            raise ManifestError(
                f"{manifest} has no row of the split '{config.split}'; its splits are: {found}."
            )
        usable, dropped = without_quarantined(manifest, kept)
        if not usable:
            raise ManifestError(
                f"All {len(kept)} clips of {manifest} are in quarantine; see "
                f"{quarantine_file(manifest)}."
            )
        num_quarantined += len(dropped)
        parts.append(tuple(usable))
    return Corpus(tuple(parts), config.weights or (1.0,) * len(parts), num_quarantined)


def find_missing(segments: Sequence[Segment], min_frames: int = MIN_CLIP_FRAMES) -> list[Broken]:
    """Clips whose file is absent, none or empty, or with too few frames by the manifest.

    Each file is looked at once, none is opened.
    """
    reasons: dict[Path, str] = {}
    for file in {segment.file for segment in segments}:
        if reason := _missing_reason(file):
            reasons[file] = reason
    found = [Broken(s.name, reasons[s.file]) for s in segments if s.file in reasons]
    short = [s for s in segments if s.num_frames is not None and s.num_frames < min_frames]
    return found + [Broken(s.name, _too_short(s, s.num_frames or 0)) for s in short]


def _missing_reason(file: Path) -> str | None:
    """Why a file can't be used, if so."""
    try:
        status = look_at(file)
        if status is None:
            absent = f"{file} does not exist; mend the manifest or the root."
            return missing_reason(file) if in_shard(file) else absent
        check_kind(file, status, stat.S_ISREG, stat.S_ISDIR)
    except VideoError as error:
        return str(error)
    is_empty = stat.S_ISREG(status.st_mode) and status.st_size == 0
    return f"{file} has no bytes; fetch it again." if is_empty else None


class SampleOrder:
    """The order of a run: position 0, 1, 2, ... -> segment, a pure function of the seed.

    An epoch takes its share of every manifest and shuffles them together. A manifest's clips are
    used up before any comes again, across epochs too.
    """

    def __init__(self, corpus: Corpus, seed: int) -> None:
        """Order `corpus` by `seed`."""
        self.seed = seed
        self.sizes = [len(part) for part in corpus.parts]
        self.takes = corpus.takes
        self.starts = np.cumsum([0, *self.takes])
        self.epoch_length = int(self.starts[-1])
        self._permutation = functools.lru_cache(maxsize=8 * (len(self.sizes) + 1))(_permutation)

    def at(self, position: int) -> Place:
        """Which segment stands at a position of the run, and in which pass over its manifest."""
        epoch, place = divmod(position, self.epoch_length)
        slot = int(self._permutation(self.seed, len(self.sizes), epoch, self.epoch_length)[place])
        part = int(np.searchsorted(self.starts, slot, side="right")) - 1
        drawn = epoch * self.takes[part] + slot - int(self.starts[part])
        turn, row = divmod(drawn, self.sizes[part])
        return Place(
            part, int(self._permutation(self.seed, part, turn, self.sizes[part])[row]), turn
        )

    def instead(self, position: int, attempt: int) -> Place:
        """Which segment takes the place of a broken one; as fixed as the order itself."""
        rng = np.random.default_rng((self.seed, position, attempt, 1))
        return self.at(int(rng.integers(0, self.epoch_length)))


def _permutation(seed: int, stream: int, turn: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, stream, turn)).permutation(length)


class Sample(NamedTuple):
    """One clip's views, its name, and the clips met on the way that can't be used."""

    views: list[View]
    name: str
    broken: tuple[Broken, ...]


class ClipViews(Clips[Sample]):
    """Positions of a run -> views. A broken clip is reported and another takes its place.

    Which one is fixed by (seed, position), and every report reaches the run, which stops beyond
    `max_broken_share`: nothing is replaced in silence.
    """

    def __init__(self, corpus: Corpus, data: DataConfig, views: ViewsConfig, seed: int) -> None:
        """Views of `corpus` in the order of `seed`."""
        super().__init__()
        self.parts = corpus.parts
        self.order = SampleOrder(corpus, seed)
        self.data = data
        self.views = views
        self.seed = seed

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position of the run; raises `VideoError` if none of 100 draws decodes."""
        broken = []
        place = self.order.at(position)
        for attempt in range(100):
            segment = self.parts[place.part][place.row]
            try:
                views = self._views(segment, place.epoch)
            except VideoError as error:
                self.left_out[segment.name] = str(error)  # spares a second attempt
                broken.append(Broken(segment.name, str(error)))
                place = self.order.instead(position, attempt)
                continue
            return Sample(views, segment.name, tuple(broken))
        raise none_decodes(broken, sum(self.order.sizes))

    def _views(self, segment: Segment, epoch: int) -> list[View]:
        self.begin(segment.name)
        return clip_views(segment, self.views, self.data, self.seed, epoch)


def none_decodes(broken: Sequence[Broken], num_clips: int) -> VideoError:
    """What to say where every draw for one position was broken."""
    return VideoError(
        f"None of {len(broken)} draws from the {num_clips} clips can be decoded; the last: "
        f"{broken[-1].reason}"
    )


def clip_views(
    segment: Segment, views: ViewsConfig, data: DataConfig, seed: int, epoch: int
) -> list[View]:
    """The views of one segment in one pass: always the same for the same (seed, epoch, segment)."""
    rng = view_rng(seed, epoch, segment.key)
    drawn: list[list[int]] = []

    def choose(length: int) -> list[int]:
        if length < MIN_CLIP_FRAMES:
            raise VideoError(_too_short(segment, length))
        drawn.extend(draw_indices(length, views, rng))
        return sorted({index for indices in drawn for index in indices})

    frames, _ = read_segment(segment, choose, data.reader, data.short_side_pixels)
    where = {index: row for row, index in enumerate(sorted({i for view in drawn for i in view}))}
    return cut_views(frames, [[where[i] for i in view] for view in drawn], views, rng)


def _too_short(segment: Segment, length: int) -> str:
    return (
        f"{segment.file} gives a clip of {length} frame{'s' * (length != 1)} ({segment.name}), but "
        f"video needs at least {MIN_CLIP_FRAMES}; leave it out of the manifest."
    )
