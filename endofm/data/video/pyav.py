"""Frames through PyAV: exact, or an error.

Short files are decoded once, when opened, and their frames kept as they come (YUV); only wanted
ones become RGB. Long files get a timetable from their packets; a read seeks back to a key frame and
decodes on, and every frame on the way must come at the time that the table gives. A corrupt packet,
a corrupt frame or a decoder's error on the way is an error of the read.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from endofm.data.video.base import BaseReader, check_file
from endofm.data.video.timetable import Timetable, lost_frames, mean_rate, recall, remember
from endofm.errors import VideoError

_SHORT_FRAMES = 256
_SHORT_BYTES = 512 * 2**20
_PROBED_FRAMES = 16
# MPEG program streams make up other times after a seek.
_UNSEEKABLE = ("mpeg",)
_SEEK_GAIN = 8  # frames that a seek must spare to be worth its while

_Packets = Iterable["av.Packet[av.VideoStream]"]


class PyAVReader(BaseReader):
    """Any file that FFmpeg reads."""

    def __init__(self, path: Path):
        super().__init__(path)
        check_file(path)
        self._kept: list[av.VideoFrame] = []
        self._reformatter = VideoReformatter()
        self._container = self._connect()
        try:
            known = recall(path)
            if known is None or known.num_frames <= self._room():
                known = self._survey()
                remember(path, known)
        except BaseException:
            self.close()
            raise
        self._table = known
        self.fps, self.size = known.fps, known.size

    def __len__(self) -> int:
        return self._table.num_frames

    @property
    def table(self) -> Timetable:
        """When each frame is shown."""
        return self._table

    def close(self) -> None:
        """Give the file back."""
        super().close()
        self._kept = []
        self._container.close()

    # Opening.

    def _connect(self) -> "av.container.InputContainer":
        try:
            # An absolute path can't be taken for a protocol, and a playlist can't fetch anything.
            container = av.open(
                str(self.path.absolute()),
                metadata_errors="ignore",
                options={"protocol_whitelist": "file"},
            )
        except PermissionError as error:
            raise VideoError(
                f"{self.path} can't be opened ({_said(error)}); correct its permissions."
            ) from error
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.path} is not a video, or its index is missing ({_said(error)}); "
                "copy it again or take it out of the manifest."
            ) from error
        cover = Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & cover]
        if not streams:
            container.close()
            raise VideoError(
                f"{self.path} holds no video, only sound or data; take it out of the manifest."
            )
        self._stream, codec = streams[0], streams[0].codec_context
        if codec is None:
            container.close()
            raise VideoError(
                f"{self.path} is coded in a way that FFmpeg does not know; encode it again."
            )
        # One thread: workers share the cores, and an error belongs to the packet given last.
        codec.thread_count = 1
        # Without it most damage to HEVC and MJPEG passes; H.264 needs it not (it flags its frames),
        # and would refuse streams that begin with an open picture group.
        if codec.name != "h264":
            codec.options = {"err_detect": "explode"}
        return container

    def _reconnect(self) -> None:
        self._container.close()
        self._container = self._connect()

    def _room(self) -> int:
        """How many frames a file may have to be a short one."""
        num_bytes = 3 * self._stream.height * self._stream.width
        return min(_SHORT_FRAMES, _SHORT_BYTES // max(1, num_bytes))

    def _survey(self) -> Timetable:
        """Read all packets; decode all frames of a short file, the first ones of a long one."""
        stream = self._stream
        packets = self._packets()
        room = self._room()
        first = list(itertools.islice(packets, room + 2))  # the last packet of all is an empty one
        scan = _Scan(itertools.chain(first, packets))
        promised = len(stream.index_entries)
        if self._container.format.name.startswith("mov,") and promised > scan.num:
            raise VideoError(
                f"{self.path} is cut off: {scan.num} of the {promised} frames in its index are "
                "there; copy it again."
            )
        if scan.num <= room:
            shown = self._kept = list(self._decoded(first))
            times = self._short_times(scan, shown)
        else:
            self._reconnect()
            shown = list(itertools.islice(self._decoded(self._packets()), _PROBED_FRAMES))
            times = scan.times_from([frame.pts for frame in shown])
        if not shown:
            raise VideoError(
                f"{self.path} holds no frame that can be shown; take it out of the manifest."
            )
        num_frames = self._count(scan, shown) if times is None else len(times)
        table = self._described(scan, shown, times, num_frames)
        if self._kept:
            self._check_whole(table, 0, num_frames - 1)
        return table

    def _described(
        self, scan: "_Scan", shown: list[av.VideoFrame], times: np.ndarray | None, num_frames: int
    ) -> Timetable:
        first, stream, container = shown[0], self._stream, self._container.format.name
        upright = _turned(np.empty((first.height, first.width)), self._quarters(first))
        assert stream.time_base is not None
        keys = np.unique(np.array(scan.keys, np.int64))
        return Timetable(
            num_frames=num_frames,
            times=times,
            keys=keys[:0] if container in _UNSEEKABLE else keys,
            lost_before=lost_frames(times, keys) if container == "mpegts" else keys[:0],
            time_base=stream.time_base,
            fps=mean_rate(times, stream.time_base, stream.average_rate or stream.guessed_rate),
            size=(upright.shape[0], upright.shape[1]),
            container=container,
            has_edit_list=scan.num_hidden > 0,
            is_open_gop=scan.is_open_gop,
            is_interlaced=any(frame.interlaced_frame for frame in shown),
        )

    def _short_times(self, scan: "_Scan", shown: list[av.VideoFrame]) -> np.ndarray | None:
        """The times at which frames came out; an error where announced ones did not."""
        times = _rising([frame.pts for frame in shown])
        if times is None or scan.times is None:
            return None
        missing = np.setdiff1d(scan.times, times)
        missing = missing[missing > times[0]]
        # The two fields of an interlaced frame may come as two packets.
        if len(missing) and not shown[0].interlaced_frame:
            raise self._damage(f"{len(missing)} of its {len(scan.times)} frames can't be decoded")
        return times

    def _count(self, scan: "_Scan", shown: list[av.VideoFrame]) -> int:
        """How many frames a file without reliable times shows: all are decoded."""
        if self._kept:
            return len(shown)
        self._reconnect()
        return sum(1 for _ in self._decoded(self._packets()))

    # Reading.

    def _frames(
        self, wanted: Sequence[int], size: tuple[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        if self._kept:
            found: Iterable[tuple[int, av.VideoFrame]] = ((i, self._kept[i]) for i in wanted)
        elif self._table.times is None:
            self._reconnect()
            numbered = enumerate(self._decoded(self._packets()))
            among = set(wanted)
            found = (
                pair for pair in itertools.islice(numbered, wanted[-1] + 1) if pair[0] in among
            )
        else:
            found = itertools.chain.from_iterable(self._stretch(run) for run in self._runs(wanted))
        for index, frame in found:
            yield index, self._rgb(frame, size)

    def _runs(self, wanted: Sequence[int]) -> list[list[int]]:
        """Divide wanted indices where seeking to the next key frame spares decoding."""
        runs = [[wanted[0]]]
        for index in wanted[1:]:
            if self._key_before(index)[1] - runs[-1][-1] > _SEEK_GAIN:
                runs.append([])
            runs[-1].append(index)
        return runs

    def _key_before(self, index: int) -> tuple[int | None, int]:
        """Time and index of the last key frame that is shown at or before a frame.

        The time is `None` where there is no such frame: decoding begins at the start.
        """
        table = self._table
        assert table.times is not None
        place = int(np.searchsorted(table.keys, table.times[index], "right")) - 1
        if place < 0:
            return None, 0
        return int(table.keys[place]), int(np.searchsorted(table.times, table.keys[place]))

    def _stretch(self, run: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from the key frame before `run` to its last frame; all must come in time."""
        times = self._table.times
        assert times is not None
        key, start = self._key_before(run[0])
        index = start
        among = set(run)
        self._check_whole(self._table, start, run[-1])
        for frame in self._decoded(self._packets_from(key)):
            if index == start and frame.pts is not None and frame.pts < times[start]:
                continue  # of the group before
            if frame.pts != times[index]:
                raise self._damage(f"its frame {index} does not come at its time")
            if index in among:
                yield index, frame
            index += 1
            if index > run[-1]:
                return
        raise self._damage(f"its frame {index} can't be decoded")

    def _check_whole(self, table: Timetable, start: int, last: int) -> None:
        """Raise `VideoError` where a frame is lost, for those after it build upon it."""
        lost = table.lost_before[(table.lost_before > start) & (table.lost_before <= last)]
        if len(lost):
            raise self._damage(f"a frame is lost before its frame {lost[0]}")

    def _packets_from(self, key: int | None) -> _Packets:
        """Packets from the key packet at that time, or an earlier one."""
        if key is not None:
            try:
                self._container.seek(key, stream=self._stream)
                packets = self._packets()
                for packet in packets:
                    if packet.is_keyframe and packet.pts is not None:
                        if packet.pts <= key and packet.pts in self._table.keys:
                            return itertools.chain([packet], packets)
                        break
            except av.FFmpegError:
                pass  # a container that can't seek is read from its start
        self._reconnect()
        return self._packets()

    def _packets(self) -> _Packets:
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            raise self._damage(f"it can't be read on ({_said(error)})") from error
        except IndexError as error:  # PyAV's own
            raise self._damage("a stream begins on the way that its head does not name") from error

    def _decoded(self, packets: _Packets) -> Iterator[av.VideoFrame]:
        """Frames in the order shown, from the first key packet on; `VideoError` for damage.

        Whether pictures that are shown before it come out is the decoder's to say, for they may
        depend on what lies before the start.
        """
        is_started = False
        for packet in packets:
            is_started = is_started or packet.is_keyframe
            if not is_started and packet.size:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                raise self._damage(_said(error)) from error
            if packet.is_corrupt:
                raise self._damage("a packet is incomplete")
            for frame in frames:
                if frame.is_corrupt:
                    raise self._damage("a frame is corrupt")
                yield frame

    def _rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        quarters = self._quarters(frame)
        is_lying = quarters % 2 == 1
        if (frame.height, frame.width) != (self.size[::-1] if is_lying else self.size):
            raise VideoError(
                f"{self.path} changes its frame size on the way, to {frame.width}x{frame.height}; "
                "encode it again at one size."
            )
        height, width = size[::-1] if is_lying else size
        # One scaling context for the file, in this thread; `frame.to_ndarray(format=...)` would
        # build one with a thread pool for every frame.
        picture = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.AREA, threads=1
        )
        return _turned(picture.to_ndarray(), quarters)

    def _quarters(self, frame: av.VideoFrame) -> int:
        """Quarter turns, counter-clockwise, that set a frame upright."""
        if frame.rotation % 90:
            raise VideoError(
                f"{self.path} is to be turned by {frame.rotation} degrees; encode it again upright."
            )
        return frame.rotation // 90 % 4

    def _damage(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.path} is damaged: {reason}; copy it again, cut the damage out, or take it out "
            "of the manifest."
        )


class _Scan:
    """What the packets of a file tell without decoding."""

    def __init__(self, packets: _Packets):
        self.num = self.num_hidden = 0
        self.is_open_gop = False
        self.keys: list[int] = []
        times: list[int | None] = []
        for packet in packets:
            if not packet.size:
                continue
            self.num += 1
            time = packet.pts
            if packet.is_keyframe and time is not None:
                self.keys.append(time)
            elif self.keys and time is not None and time < self.keys[-1]:
                self.is_open_gop = True
            if packet.is_discard:
                self.num_hidden += 1
            elif self.keys and (time is not None or self.num > _PROBED_FRAMES):
                times.append(time)
        # Only leading pictures, which are probed, may come without a time.
        known = [time for time in times if time is not None]
        self.times: np.ndarray | None = np.unique(np.array(known, np.int64))
        if not known or len(self.times) < len(times):
            self.times = None

    def times_from(self, shown: list[int | None]) -> np.ndarray | None:
        """The table that starts with the times `shown`; `None` where packets say otherwise."""
        first = _rising(shown)
        if self.times is None or first is None:
            return None
        times = self.times[self.times >= first[0]]
        return times if np.array_equal(times[: len(first)], first) else None


def timetable(path: Path) -> Timetable:
    """When each frame of a file is shown; made once a process and file. Raises `VideoError`."""
    check_file(path)
    known = recall(path)
    if known is None:
        with PyAVReader(path) as reader:
            known = reader.table
    return known


def _rising(times: list[int | None]) -> np.ndarray | None:
    """As an array, if every one is known and later than the one before."""
    if None in times:
        return None
    array = np.array(times, np.int64)
    return array if (np.diff(array) > 0).all() else None


def _turned(picture: np.ndarray, quarters: int) -> np.ndarray:
    return np.rot90(picture, quarters)


def _said(error: Exception) -> str:
    """A library's message without its address and number."""
    return str(getattr(error, "strerror", None) or error)
