"""Whether there is room for a corpus, before it is begun."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import av

from endofm.data.corpus.source import Source
from endofm.data.corpus.work import ClipOptions
from endofm.errors import CorpusError

# Bytes a pixel of a frame at crf 18; measured on laparoscopy and colonoscopy: 0.03 to 0.10.
_BYTES_PER_PIXEL = {"h264": 0.12, "hevc": 0.1, "jpeg": 0.6, "png": 2.0}
_MASK_BYTES_PER_PIXEL = 0.02
_UNKNOWN_SIZE = 2_000_000  # pixels


def check_space(sources: Sequence[Source], out: Path, options: ClipOptions) -> None:
    """Raise `CorpusError` where what is still to be written will hardly fit."""
    needed = sum(estimated_bytes(source, options) for source in sources)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise CorpusError(
            f"{out} has {free / 1e9:.1f} GB free, but about {needed / 1e9:.1f} GB are needed for "
            f"{len(sources)} sources; free space there or choose another place."
        )


def estimated_bytes(source: Source, options: ClipOptions) -> int:
    """About what the clips of a source take, rather more than less."""
    num_frames, pixels, num_bytes = _extent(source)
    if options.codec == "copy":
        return num_bytes
    pixels = min(pixels, 2 * options.short_side_pixels**2)
    scale = 2 ** (-(options.crf - 18) / 6) if options.codec in ("h264", "hevc") else 1.0
    wanted = num_frames * pixels * _BYTES_PER_PIXEL[options.codec] * min(scale, 4.0)
    if source.masks:
        wanted += num_frames * pixels * _MASK_BYTES_PER_PIXEL
    unpacked = num_bytes if source.video is not None and source.video.inside else 0
    return round(wanted) + unpacked


def _extent(source: Source) -> tuple[int, int, int]:
    """Frames, pixels of a frame and bytes, as the header tells."""
    if source.video is None:
        return len(source.pictures), _UNKNOWN_SIZE, sum(m.size for m in source.pictures)
    num_bytes = source.video.size
    if source.video.inside:
        return num_bytes // 10_000, _UNKNOWN_SIZE, num_bytes
    try:
        with av.open(str(source.video.path.absolute()), metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            rate = float(stream.average_rate or 30)
            return (
                max(stream.frames, round(seconds * rate)),
                stream.height * stream.width,
                num_bytes,
            )
    except (av.FFmpegError, ValueError, IndexError):
        return 0, 0, num_bytes  # the worker says what is wrong with it
