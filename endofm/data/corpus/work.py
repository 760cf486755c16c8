"""One source to its clips, masks and boxes: what a worker process does."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.checks.fov import Field, find_field
from endofm.data.corpus.encode import (
    ClipWriter,
    Codec,
    copy_clip,
    key_bounds,
    write_pictures,
)
from endofm.data.corpus.source import Box, Source, clip_bounds
from endofm.data.corpus.tree import Member
from endofm.data.corpus.view import steadied, what_is_shown
from endofm.data.places import is_below
from endofm.data.video import VideoReader, open_video
from endofm.data.video.frames import FrameFiles, is_cut_off
from endofm.data.video.pyav import PyAVReader
from endofm.errors import ConfigError, CorpusError, VideoError

_FIELD_FRAMES = 24
_LABEL_SLACK = 25  # frames; labels made once a second end a little after the video

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipOptions:
    """How clips are written."""

    clip_seconds: float | None = 5.0
    """Length of a clip; the last of a video takes the remainder. None: whole videos."""
    short_side_pixels: int = 256
    """Frames are scaled down (never up) to this short side; sizes are made even."""
    codec: Codec = "h264"
    """h264 or hevc; jpeg or png for folders of frames; copy cuts at key frames without encoding."""
    crf: int = 18
    """Quality of h264 and hevc: lower is better and larger; 18 hides the loss from the eye."""
    gop_frames: int = 12
    """Frames from one key frame to the next, 12 to 30; groups are closed."""
    picture_fps: float = 30.0
    """Rate given to pictures in a folder where nothing tells it."""
    crop: bool = False
    """Crop to the field of view: black borders and text on them go."""
    mark_views: bool = False
    """Label blank and out-of-body stretches (label_view)."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.clip_seconds is not None and not 0 < self.clip_seconds < math.inf:
            raise ConfigError(f"clip_seconds is {self.clip_seconds}; clips last longer than 0 s.")
        if self.short_side_pixels < 16 or self.short_side_pixels % 2:
            raise ConfigError(
                f"short_side_pixels is {self.short_side_pixels}; give an even number from 16."
            )
        if not 0 <= self.crf <= 40:
            raise ConfigError(f"crf is {self.crf}; give 0 (no loss seen) to 40.")
        if not 12 <= self.gop_frames <= 30:
            raise ConfigError(f"gop_frames is {self.gop_frames}; give 12 to 30.")
        if not 0 < self.picture_fps < 1000:
            raise ConfigError(f"picture_fps is {self.picture_fps}; give a rate above 0.")
        if self.codec == "copy" and self.crop:
            raise ConfigError("codec copy keeps frames as they are; leave out crop.")


def prepare_source(source: Source, out: Path, options: ClipOptions) -> dict[str, Any]:
    """Write the clips of a source that are missing, and return its record.

    A source that can't be used gives a record with the sentence `left_out` and no clips; faults of
    the disk are raised (`OSError`).
    """
    cv2.setNumThreads(1)
    base = {"source": source.name, "fingerprint": source.fingerprint}
    try:
        with _unpacked(source, out) as local, _reader(local, options) as reader:
            return {**base, **_prepare(local, reader, out, options)}
    except (VideoError, CorpusError) as error:
        return {**base, "left_out": str(error), "clips": []}


@contextmanager
def _unpacked(source: Source, out: Path) -> Iterator[Source]:
    """The source with its video on disk; one inside an archive is unpacked for the time being."""
    video = source.video
    if video is None or not video.inside:
        yield source
        return
    name = hashlib.blake2b(source.name.encode(), digest_size=8).hexdigest()
    copy = out / "unpacked" / (name + Path(video.inside).suffix.lower())
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        video.copy_to(copy)
        yield replace(source, video=Member(copy, size=video.size))
    finally:
        copy.unlink(missing_ok=True)


class _Pictures(FrameFiles):
    """Members as frames; `fps` is what the source tells."""

    def __init__(self, source: Source, fps: float):
        # They have what the reader asks of a path: `read_bytes` and a name for messages.
        super().__init__(source.pictures[0].path, cast(Sequence[Path], source.pictures))
        self.fps = fps


def _reader(source: Source, options: ClipOptions) -> VideoReader:
    if source.video is not None:
        return open_video(source.video.path)
    if not source.pictures:
        raise CorpusError(f"{source.name} has no pictures; the download may be incomplete.")
    return _Pictures(source, source.fps or options.picture_fps)


def _prepare(
    source: Source, reader: VideoReader, out: Path, options: ClipOptions
) -> dict[str, Any]:
    num_frames = len(reader)
    _check_labels(source, num_frames, reader.size)
    if math.isnan(reader.fps):
        raise VideoError(
            f"{source.video} does not tell how many frames a second it has; encode it again."
        )
    field = _field(reader) if options.crop else Field(0, 0, reader.size[1], reader.size[0])
    size = (
        field.size if options.codec == "copy" else even_size(field.size, options.short_side_pixels)
    )
    clips = _Clips(source, reader, out, options, field, size)
    written = clips.write_missing(_bounds(reader, options))
    boxes, num_cut = _scaled_boxes(source, field, reader.size, size)
    return {
        "frames": num_frames,
        "fps": reader.fps,
        "size": list(reader.size),
        "crop": [field.left, field.top, field.right, field.bottom] if options.crop else None,
        "written_size": list(size),
        "clips": written,
        "boxes": boxes,
        "boxes_cut": num_cut,
        "worst_difference": round(clips.worst, 3),
        "views": clips.views(num_frames),
    }


def _bounds(reader: VideoReader, options: ClipOptions) -> list[tuple[int, int]]:
    if options.codec == "copy":
        if not isinstance(reader, PyAVReader):
            raise CorpusError("Pictures can't be cut without encoding; choose another codec.")
        return key_bounds(reader, options.clip_seconds)
    return clip_bounds(len(reader), reader.fps, options.clip_seconds)


def _field(reader: VideoReader) -> Field:
    """The field of view, from frames spread over the source."""
    count = min(_FIELD_FRAMES, len(reader))
    indices = np.linspace(0, len(reader) - 1, count).round().astype(int)
    return find_field(reader.read(sorted(set(indices.tolist()))))


def even_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width scaled down, never up, to that short side, and even."""
    scale = min(1.0, short_side / min(size))
    height, width = (max(2, 2 * round(side * scale / 2)) for side in size)
    return height, width


class _Clips:
    """The clips of one source."""

    def __init__(
        self,
        source: Source,
        reader: VideoReader,
        out: Path,
        options: ClipOptions,
        field: Field,
        size: tuple[int, int],
    ):
        self.source, self.reader, self.out, self.options = source, reader, out, options
        self.field, self.size = field, size
        self.worst = 0.0
        self._views: dict[int, str] = {}
        # A picture that stands alone stays a picture.
        is_still = source.video is None and len(source.pictures) == 1
        self.codec: Codec = "png" if is_still and options.codec != "jpeg" else options.codec

    def write_missing(self, bounds: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """Write clips and masks that are not there, in one pass over the frames they need."""
        for folder in ("clips", "masks"):
            if not is_below(self.out, f"{folder}/{self.source.name}"):
                raise CorpusError(
                    f"{self.out / folder / self.source.name} leads out of {self.out} by a link; "
                    "put a folder in the link's place, or prepare into another one."
                )
        paths = [self._path(start) for start, _ in bounds]
        missing = [pair for pair, path in zip(bounds, paths, strict=True) if not path.exists()]
        wanted = bounds if self.options.mark_views else missing
        if self.codec == "copy":
            for start, stop in missing:
                self._copy(start, stop)
        if self.codec != "copy" or self.options.mark_views:
            frames = self._frames(wanted)
            for start, stop in wanted:
                self._write(frames, start, stop, (start, stop) in missing)
        return [self._entry(start, stop) for start, stop in bounds]

    def views(self, num_frames: int) -> list[list[Any]]:
        """`[start, stop, view]` over all frames, where they are to be marked."""
        if not self.options.mark_views:
            return []
        seen = steadied([self._views[i] for i in range(num_frames)], round(self.reader.fps))
        changes = [i for i in range(1, num_frames) if seen[i] != seen[i - 1]]
        edges = [0, *changes, num_frames]
        return [[start, stop, seen[start]] for start, stop in pairwise(edges)]

    def _path(self, start: int) -> Path:
        suffix = "" if self.codec in ("png", "jpeg") else ".mp4"
        return self.out / "clips" / self.source.name / f"{start:06d}{suffix}"

    def _masks(self, start: int) -> Path:
        return self.out / "masks" / self.source.name / f"{start:06d}"

    def _frames(self, wanted: list[tuple[int, int]]) -> Iterator[Frame]:
        """The frames of these clips, cropped and scaled."""
        indices = [index for start, stop in wanted for index in range(start, stop)]
        is_whole = self.field.size == self.reader.size
        for index, frame in self.reader.stream(indices, self.size if is_whole else None):
            if not is_whole:
                cropped = np.ascontiguousarray(self.field.crop(frame))
                frame = _resized(cropped, self.size)
            if self.options.mark_views:
                self._views[index] = what_is_shown(frame)
            yield frame

    def _write(self, frames: Iterator[Frame], start: int, stop: int, is_missing: bool) -> None:
        """Take the frames of a clip; write them if it is missing."""
        here = (next(frames) for _ in range(stop - start))
        if not is_missing or self.codec == "copy":
            for _ in here:
                pass
            return
        if self.source.masks:
            pictures = (self._mask(i) for i in range(start, stop))
            write_pictures(self._masks(start), pictures, ".png", 0)
        path, options = self._path(start), self.options
        if self.codec in ("png", "jpeg"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pictures(path, here, ".png" if self.codec == "png" else ".jpg", 95)
            return
        with ClipWriter(path, self.codec, self.reader.fps, options.crf, options.gop_frames) as clip:
            for frame in here:
                clip.add(frame)
            self.worst = max(self.worst, clip.finish())

    def _copy(self, start: int, stop: int) -> None:
        assert isinstance(self.reader, PyAVReader)
        if self.source.masks:
            pictures = (self._mask(i) for i in range(start, stop))
            write_pictures(self._masks(start), pictures, ".png", 0)
        copy_clip(self.reader.path, self.reader, start, stop, self._path(start))

    def _mask(self, index: int) -> Frame:
        """A mask as the written frames are: 255 on the object, 0 elsewhere."""
        member = self.source.masks[index]
        try:
            data = member.read_bytes()
        except OSError as error:
            raise VideoError(
                f"{member} can't be read ({error.strerror}); fetch it again."
            ) from error
        picture = None
        if data and not is_cut_off(data):
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise VideoError(f"{member} is not a whole picture; fetch it again.")
        if picture.shape != self.reader.size:
            height, width = self.reader.size
            raise CorpusError(
                f"{member} is {picture.shape[1]}x{picture.shape[0]}, but the frames of "
                f"{self.source.name} are {width}x{height}; masks must have the frames' size."
            )
        scaled = _resized(np.ascontiguousarray(self.field.crop(np.asarray(picture))), self.size)
        return np.where(scaled > 127, np.uint8(255), np.uint8(0))

    def _entry(self, start: int, stop: int) -> dict[str, Any]:
        path = self._path(start)
        entry: dict[str, Any] = {
            "path": path.relative_to(self.out).as_posix(),
            "start": start,
            "stop": stop,
            "files": checksums(path, self.out),
        }
        if self.source.masks:
            masks = self._masks(start)
            entry["masks"] = masks.relative_to(self.out).as_posix()
            entry["files"] |= checksums(masks, self.out)
        return entry


def checksums(path: Path, out: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file in a folder, by its name relative to `out`."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _resized(picture: Frame, size: tuple[int, int]) -> Frame:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _check_labels(source: Source, num_frames: int, size: tuple[int, int]) -> None:
    """Hold masks and stretches against the frames that are really there."""
    if source.masks and len(source.masks) != num_frames:
        raise CorpusError(
            f"{source.name} has {num_frames} frames, but {len(source.masks)} masks; part of the "
            "download is missing."
        )
    last = max((stretch.stop for stretch in source.stretches), default=0)
    if last > num_frames + _LABEL_SLACK:
        raise CorpusError(
            f"{source.name} has {num_frames} frames, but labels up to frame {last - 1}; the video "
            "is cut short, or its labels belong to another one."
        )
    beyond = [frame for frame in source.boxes or {} if not 0 <= frame < num_frames]
    if beyond:
        raise CorpusError(
            f"{source.name} has {num_frames} frames, but a box in frame {beyond[0]}; frames are "
            "counted from 0."
        )


def _scaled_boxes(
    source: Source, field: Field, size: tuple[int, int], written: tuple[int, int]
) -> tuple[list[list[Any]] | None, int]:
    """Boxes in the written frames, cut to the field; and how many reached beyond the frame."""
    if source.boxes is None:
        return None, 0
    height, width = size
    across, down = written[1] / field.size[1], written[0] / field.size[0]
    rows: list[list[Any]] = []
    num_cut = 0
    for frame, boxes in sorted(source.boxes.items()):
        for box in boxes:
            _check_box(source, frame, box, width, height)
            num_cut += box.x1 < 0 or box.y1 < 0 or box.x2 > width - 1 or box.y2 > height - 1
            # At the edges of pixels, where scaling is exact.
            left, top = max(box.x1, field.left), max(box.y1, field.top)
            right, bottom = min(box.x2 + 1, field.right), min(box.y2 + 1, field.bottom)
            if right - left < 1 or bottom - top < 1:
                continue  # in what was cropped away
            x1, y1 = (left - field.left) * across, (top - field.top) * down
            x2, y2 = (right - field.left) * across - 1, (bottom - field.top) * down - 1
            # What becomes smaller than a pixel stays one.
            corners = (round(value, 2) for value in (x1, y1, max(x1, x2), max(y1, y2)))
            rows.append([frame, *corners, box.label])
    return rows, num_cut


def _check_box(source: Source, frame: int, box: Box, width: int, height: int) -> None:
    slack = source.box_slack
    is_inside = (
        -slack <= box.x1 <= box.x2 <= width - 1 + slack
        and -slack <= box.y1 <= box.y2 <= height - 1 + slack
        and min(box.x2, box.y2) > -1
        and box.x1 < width
        and box.y1 < height
    )
    if not is_inside:
        raise CorpusError(
            f"{source.name} has a box in frame {frame} from {box.x1:g},{box.y1:g} to "
            f"{box.x2:g},{box.y2:g}, but its frames are {width}x{height}; correct or delete it."
        )
