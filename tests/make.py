"""Small builders shared by the tests."""

import itertools
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

_LIGHT, _DARK = (250, 200, 140), (60, 20, 10)
_ROWS, _COLUMNS = 3, 4
_BITS = _ROWS * _COLUMNS - 2
_FAST = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libsvtav1": {"preset": "8", "crf": "10", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
OPEN_GOP = {
    "preset": "fast",
    "x264-params": "open-gop=1:scenecut=0:bframes=3:keyint=10:min-keyint=10:b-adapt=0",
}
"""Options for libx264: groups of 10 frames whose last pictures need the group after."""


def shared_folder() -> Path:
    """The shared folder with real and golden data; skips the test where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = (root / os.environ.get("ENDOFM_SHARED", "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"the shared folder {folder} is absent (set ENDOFM_SHARED)")
    return folder


def numbered_frame(index: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A frame that carries its index: 10 bits as light and dark blocks.

    The first block is always light, the last always dark, so that a turned frame is told from an
    upright one.
    """
    bits = [1, *((index >> bit) & 1 for bit in range(_BITS)), 0]
    height, width = size
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    is_light = np.array(bits, bool)[rows[:, None] * _COLUMNS + columns[None, :]]
    return np.where(is_light[..., None], np.uint8(_LIGHT), np.uint8(_DARK))


def frame_index(frame: np.ndarray) -> int:
    """The index that `numbered_frame` put there; -1 for a frame that is turned or none of ours."""
    height, width = frame.shape[:2]
    rows = ((np.arange(_ROWS) + 0.5) * height / _ROWS).astype(int)
    columns = ((np.arange(_COLUMNS) + 0.5) * width / _COLUMNS).astype(int)
    reach = max(1, min(height, width) // 20)
    is_light = [
        frame[row - reach : row + reach, column - reach : column + reach].mean() > 115
        for row in rows
        for column in columns
    ]
    if not is_light[0] or is_light[-1]:
        return -1
    return sum(int(light) << bit for bit, light in enumerate(is_light[1:-1]))


def frame_indices(frames: Iterable[np.ndarray]) -> list[int]:
    return [frame_index(frame) for frame in frames]


def write_video(
    path: Path,
    num_frames: int = 30,
    size: tuple[int, int] = (96, 128),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 30,
    gop: int = 10,
    b_frames: int = 0,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    first: int = 0,
) -> Path:
    """Encode frames numbered from `first`; `times` are presentation times in units of 1/fps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if b_frames and codec == "libx264":
        options = {"preset": "fast", **(options or {})}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        stream.options = {**_FAST.get(codec, {}), **(options or {})}
        if rotation:
            stream.set_display_rotation(rotation)
        for index, time in zip(range(num_frames), times or itertools.count(), strict=False):
            picture = numbered_frame(first + index, size)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for start in range(0, int(16000 * seconds), 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_video(source: Path, target: Path, start: int, stop: int, fps: int = 30) -> Path:
    """Cut without encoding, from the key frame before `start`, as `ffmpeg -ss -to -c copy` does.

    An mp4 gets an edit list that hides the frames before `start`.
    """
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copy = writing.add_stream_from_template(stream)
        packets = [packet for packet in reading.demux(stream) if packet.size]
        first = min(packet.pts for packet in packets)
        ticks = round(1 / (fps * stream.time_base))
        begin, end = first + start * ticks, first + stop * ticks
        key = max(i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= begin)
        for packet in itertools.takewhile(lambda packet: packet.pts < end, packets[key:]):
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copy
            writing.mux(packet)
    return target


def copy_video(source: Path, target: Path, **muxer: str) -> Path:
    """Move the packets to another container, or the same one with other options."""
    with av.open(str(source)) as reading, av.open(str(target), "w", options=muxer) as writing:
        stream = reading.streams.video[0]
        copy = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            if packet.size:
                packet.stream = copy
                writing.mux(packet)
    return target


def overwrite(path: Path, at: float, num_bytes: int = 200) -> Path:
    """Write noise over bytes in the middle; `at` is a share of the file."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    noise = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8)
    data[start : start + num_bytes] = noise.tobytes()
    path.write_bytes(data)
    return path


def write_frames(folder: Path, frames: Iterable[np.ndarray], pattern: str = "{}.png") -> Path:
    """RGB frames as pictures numbered from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        is_fine, data = cv2.imencode(Path(pattern).suffix, frame[..., ::-1])
        assert is_fine
        (folder / pattern.format(index)).write_bytes(data.tobytes())
    return folder
