"""Clips as files: written in closed groups at a constant rate, read back and compared."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.loading.closing import Closing
from endofm.data.video.pyav import PyAVReader
from endofm.errors import CorpusError, VideoError
from endofm.files import PART, new_file, new_folder, settle

Codec = Literal["h264", "hevc", "jpeg", "png", "copy"]

CLOSED_GROUPS = "open-gop=0:scenecut=0"
"""For libx264 and libx265: closed groups at fixed places."""
_CHEAP_TO_DECODE = "cabac=0:b-pyramid=none"
"""For libx264: a clip is written once and read in every epoch. See docs/corpus.md for the price."""
_LIBRARIES = {"h264": "libx264", "hevc": "libx265"}
_THUMBNAIL = 48  # pixels of a side
# Largest mean difference between thumbnails of a frame given and the same frame read, in levels of
# 255. Coding at crf 35 stays below 2 on endoscopy; a wrong frame is far beyond it.
_TOLERANCE = 6.0

Frame = npt.NDArray[np.uint8]


class ClipWriter(Closing):
    """Writes one clip, frame by frame, and checks it; used as a context.

    The file has another name until `finish` has found in it what was given, so that a file under
    its own name is complete.
    """

    def __init__(self, path: Path, codec: Codec, fps: float, crf: int, gop_frames: int):
        self.path, self._part = path, path.with_name(path.name + PART)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._given: list[Frame] = []
        self._rate = Fraction(fps).limit_denominator(100_000)
        self._options = _options(codec, crf, gop_frames)
        self._library, self._gop = _LIBRARIES[codec], gop_frames
        self._container = av.open(str(self._part), "w", format="mp4")
        self._stream: av.VideoStream | None = None

    def close(self) -> None:
        """End the file; what was not finished is gone."""
        self._container.close()
        self._part.unlink(missing_ok=True)

    def add(self, picture: Frame) -> None:
        """Encode one more frame, RGB of even height and width."""
        if self._stream is None:
            stream = cast(
                av.VideoStream,
                self._container.add_stream(self._library, self._rate, options=self._options),
            )
            stream.height, stream.width = picture.shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size = self._gop
            stream.codec_context.thread_count = 1
            self._stream = stream
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = len(self._given), 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._given.append(_thumbnail(picture))

    def finish(self) -> float:
        """Close the file, read it back, give it its name; returns the largest difference found.

        Raises `CorpusError` where the file does not hold the frames it was given.
        """
        assert self._stream is not None
        self._container.mux(self._stream.encode(None))
        self._container.close()
        with PyAVReader(self._part) as reader:
            worst = _compare(self.path, self._given, reader)
            wanted = float(self._rate)
            if len(self._given) > 1 and abs(reader.fps / wanted - 1) > 1e-3:
                raise CorpusError(
                    f"{self.path} was written at {wanted:g} frames a second but reads at "
                    f"{reader.fps:g}; please report it."
                )
        settle(self._part, self.path)
        return worst


def _options(codec: str, crf: int, gop_frames: int) -> dict[str, str]:
    """Closed groups at fixed places, so that a clip can be sought into and cut again."""
    common = {"crf": str(crf), "preset": "medium"}
    if codec == "hevc":
        params = f"{CLOSED_GROUPS}:keyint={gop_frames}:min-keyint={gop_frames}"
        return {**common, "x265-params": f"{params}:pools=1:frame-threads=1:log-level=none"}
    return {**common, "x264-params": f"{CLOSED_GROUPS}:{_CHEAP_TO_DECODE}"}


def _compare(path: Path, given: list[Frame], reader: PyAVReader) -> float:
    if len(reader) != len(given):
        raise CorpusError(
            f"{path} was given {len(given)} frames, but {len(reader)} can be read; please report "
            "it."
        )
    worst = 0.0
    for index, picture in reader.stream(range(len(given))):
        seen = _thumbnail(picture).astype(np.float32)
        difference = float(np.abs(seen - given[index]).mean())
        if difference > _TOLERANCE:
            raise CorpusError(
                f"{path}: frame {index} reads {difference:.1f} levels away from what was given; "
                "use a lower crf."
            )
        worst = max(worst, difference)
    return worst


def _thumbnail(picture: Frame) -> Frame:
    small = cv2.resize(picture, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def write_pictures(folder: Path, pictures: Iterable[Frame], suffix: str, quality: int) -> int:
    """Pictures as `000000.png`, ...; the folder appears whole or not at all. Returns how many.

    RGB [H, W, 3] or grey [H, W].
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    number = -1
    with new_folder(folder) as part:
        for number, picture in enumerate(pictures):
            is_fine, data = cv2.imencode(
                suffix, picture[..., ::-1] if picture.ndim == 3 else picture, settings
            )
            if not is_fine:
                raise CorpusError(f"A picture of {folder} can't be encoded as {suffix}.")
            (part / f"{number:06d}{suffix}").write_bytes(data.tobytes())
    return number + 1


def key_bounds(reader: PyAVReader, clip_seconds: float | None) -> list[tuple[int, int]]:
    """Clips of at least `clip_seconds` that begin at key frames; the last takes the remainder.

    Raises `VideoError` for a video that can't be cut without encoding.
    """
    table = reader.table
    if table.times is None or not len(table.keys) or table.is_open_gop or table.has_edit_list:
        raise VideoError(
            f"{reader.path} can't be cut exactly without encoding (open groups, an edit list, or "
            "no reliable times); prepare it with --codec h264."
        )
    keys = np.searchsorted(table.times, table.keys).tolist()
    if keys[0] != 0:
        raise VideoError(
            f"{reader.path} does not begin with a key frame, so it can't be cut without encoding; "
            "prepare it with --codec h264."
        )
    bounds, start = [], 0
    length = table.num_frames if clip_seconds is None else round(clip_seconds * reader.fps)
    for key in keys[1:]:
        if key - start >= length and table.num_frames - key >= length:
            bounds.append((start, key))
            start = key
    return [*bounds, (start, table.num_frames)]


def copy_clip(video: Path, reader: PyAVReader, start: int, stop: int, path: Path) -> None:
    """Cut a clip from key frame to key frame without encoding, and hold it against the source.

    Raises `VideoError` where what is read from it differs from the source by a single bit.
    """
    times = reader.table.times
    assert times is not None
    first = int(times[start])
    end = int(times[stop]) if stop < len(times) else None
    try:
        with new_file(path) as part:
            with av.open(str(video)) as source, av.open(str(part), "w", format="mp4") as target:
                stream = source.streams.video[0]
                copy = target.add_stream_from_template(stream)
                source.seek(first, stream=stream)
                for packet in _between(source.demux(stream), first, end):
                    packet.stream = copy
                    target.mux(packet)
            with PyAVReader(part) as cut:
                is_same = len(cut) == stop - start and all(
                    np.array_equal(one, other)
                    for (_, one), (_, other) in zip(
                        cut.stream(range(len(cut))), reader.stream(range(start, stop)), strict=True
                    )
                )
            if not is_same:
                raise VideoError(
                    f"{video} can't be cut at frame {start} without encoding: the cut shows other "
                    "frames; prepare it with --codec h264."
                )
    except av.FFmpegError as error:
        raise VideoError(
            f"{video} can't be cut without encoding ({error.strerror}); prepare it with --codec "
            "h264."
        ) from error


def _between(
    packets: Iterable["av.Packet[av.VideoStream]"], first: int, end: int | None
) -> Iterator["av.Packet[av.VideoStream]"]:
    """Packets shown from `first` on and before `end`, with times from 0."""
    is_started, num_after = False, 0
    for packet in packets:
        if not packet.size or packet.pts is None:
            continue
        is_started = is_started or (packet.is_keyframe and packet.pts == first)
        if not is_started:
            continue
        if end is not None and packet.pts >= end:
            num_after += 1
            if num_after > 64:  # pictures are never stored later than so many others
                return
            continue
        packet.pts -= first
        if packet.dts is not None:
            packet.dts -= first
        yield packet
