"""Frames through PyAV: exact, or an error.

A file gets a timetable from its packets; a read seeks back to a key frame and decodes on, and every
frame on the way must come at the time that the table gives. In H.264 of closed groups in MP4 and
Matroska, pictures that no wanted frame builds upon are left out. A corrupt packet, a corrupt frame
or a decoder's error on the way is an error of the read.

Short files of other kinds are decoded once, when opened, and their frames kept as they come (YUV);
only wanted ones become RGB.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from endofm.data.video.base import BaseReader, check_file
from endofm.data.video.h264 import Units, units
from endofm.data.video.scan import Packets, Scan, rising
from endofm.data.video.timetable import Timetable, lost_frames, mean_rate, recall, remember
from endofm.errors import VideoError

_SHORT_FRAMES = 256
_SHORT_BYTES = 512 * 2**20
_PROBED_FRAMES = 16
# MPEG program streams make up other times after a seek.
_UNSEEKABLE = ("mpeg",)
# Those whose packets have the form that `Units` reads, and their own times.
_SPARING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_SEEK_GAIN = 8  # frames that a seek must spare to be worth its while


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
            if known is None or (known.sparing is None and known.num_frames <= self._room()):
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

    def check(self) -> None:
        """Decode every frame of a short file, once a process; `VideoError` for damage anywhere."""
        if self._table.is_checked:
            return
        key, _ = self._key_before(0)
        for _ in self._on_the_way(self._packets_from(key), np.arange(len(self))):
            pass
        self._table = replace(self._table, is_checked=True)
        remember(self.path, self._table)

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
        scan = Scan(itertools.chain(first, packets), _PROBED_FRAMES, self._units())
        promised = len(stream.index_entries)
        if self._container.format.name.startswith("mov,") and promised > scan.num:
            raise VideoError(
                f"{self.path} is cut off: {scan.num} of the {promised} frames in its index are "
                "there; copy it again."
            )
        if scan.sparing is not None:
            shown = list(self._decoded([first[0], self._end()]))
            times = scan.times_from([frame.pts for frame in shown])
        elif scan.num <= room:
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

    def _units(self) -> Units | None:
        """What reads the pictures of packets, if the file is of a kind that may leave some out."""
        codec = self._stream.codec_context
        if codec.name != "h264" or self._container.format.name not in _SPARING:
            return None
        return units(codec.extradata)

    def _end(self) -> "av.Packet[av.VideoStream]":
        """The empty packet after which a decoder gives what it holds."""
        packet = cast("av.Packet[av.VideoStream]", av.Packet())
        packet.stream = self._stream
        return packet

    def _described(
        self, scan: Scan, shown: list[av.VideoFrame], times: np.ndarray | None, num_frames: int
    ) -> Timetable:
        first, stream, container = shown[0], self._stream, self._container.format.name
        upright = _turned(np.empty((first.height, first.width)), self._quarters(first))
        assert stream.time_base is not None
        sparing = None if times is None else scan.sparing
        keys = np.unique(np.array(scan.keys, np.int64))
        return Timetable(
            num_frames=num_frames,
            times=times,
            keys=keys[:0] if container in _UNSEEKABLE else keys,
            lost_before=lost_frames(times, keys) if container == "mpegts" else keys[:0],
            sparing=sparing,
            is_checked=sparing is None or num_frames > self._room(),
            time_base=stream.time_base,
            fps=mean_rate(times, stream.time_base, stream.average_rate or stream.guessed_rate),
            size=(upright.shape[0], upright.shape[1]),
            container=container,
            has_edit_list=scan.num_hidden > 0,
            is_open_gop=scan.is_open_gop,
            is_interlaced=any(frame.interlaced_frame for frame in shown),
            rounding=_rounding(first),
        )

    def _short_times(self, scan: Scan, shown: list[av.VideoFrame]) -> np.ndarray | None:
        """The times at which frames came out; an error where announced ones did not."""
        times = rising([frame.pts for frame in shown])
        if times is None or scan.times is None:
            return None
        missing = np.setdiff1d(scan.times, times)
        missing = missing[missing > times[0]]
        # The two fields of an interlaced frame may come as two packets.
        if len(missing) and not shown[0].interlaced_frame:
            raise self._damage(f"{len(missing)} of its {len(scan.times)} frames can't be decoded")
        return times

    def _count(self, scan: Scan, shown: list[av.VideoFrame]) -> int:
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
        """Decode from the key frame before `run` as far as its frames need."""
        key, start = self._key_before(run[0])
        among, last = set(run), run[-1]
        self._check_whole(self._table, start, last)
        if self._table.sparing is not None:
            needed = self._table.sparing.needed(run)
            last = int(needed[-1])
            packets = self._chosen(self._packets_from(key), needed)
            try:
                for index, frame in self._on_the_way(packets, needed):
                    if index in among:
                        among.remove(index)
                        yield index, frame
                return
            except VideoError:
                pass  # whether it is damage is for whole decoding to say
        for index, frame in self._on_the_way(self._packets_from(key), np.arange(start, last + 1)):
            if index in among:
                yield index, frame

    def _on_the_way(
        self, packets: Packets, expected: np.ndarray
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their indices, which must be the expected ones, each at its time."""
        times = self._table.times
        assert times is not None
        place = 0
        for frame in self._decoded(packets):
            index = int(expected[place])
            if place == 0 and frame.pts is not None and frame.pts < times[index]:
                continue  # of the group before
            if frame.pts != times[index]:
                raise self._damage(f"its frame {index} does not come at its time")
            yield index, frame
            place += 1
            if place == len(expected):
                return
        raise self._damage(f"its frame {expected[place]} can't be decoded")

    def _chosen(self, packets: Packets, needed: np.ndarray) -> Packets:
        """The packets of these frames, and an end."""
        assert self._table.times is not None
        times = set(self._table.times[needed].tolist())
        for packet in packets:
            if packet.pts in times:
                times.remove(packet.pts)
                yield packet
            if not times:
                break
        yield self._end()

    def _check_whole(self, table: Timetable, start: int, last: int) -> None:
        """Raise `VideoError` where a frame is lost, for those after it build upon it."""
        lost = table.lost_before[(table.lost_before > start) & (table.lost_before <= last)]
        if len(lost):
            raise self._damage(f"a frame is lost before its frame {lost[0]}")

    def _packets_from(self, key: int | None) -> Packets:
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

    def _packets(self) -> Packets:
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            raise self._damage(f"it can't be read on ({_said(error)})") from error
        except IndexError as error:  # PyAV's own
            raise self._damage("a stream begins on the way that its head does not name") from error

    def _decoded(self, packets: Packets) -> Iterator[av.VideoFrame]:
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


def timetable(path: Path, check: bool = False) -> Timetable:
    """When each frame of a file is shown; made once a process and file. Raises `VideoError`.

    With `check`, also for damage anywhere in a short file.
    """
    check_file(path)
    known = recall(path)
    if known is None or (check and not known.is_checked):
        with PyAVReader(path) as reader:
            if check:
                reader.check()
            known = reader.table
    return known


def _rounding(frame: av.VideoFrame) -> str:
    """Why other builds of FFmpeg give other RGB than ours, as measured; empty: they do not.

    Only where pixels share their colours: it must be spread over them, by one or the other rule.
    """
    luma, *colors = frame.format.components
    shared = [one for one in colors if (one.width, one.height) != (luma.width, luma.height)]
    if not shared:
        return ""
    if luma.bits > 8:
        return f"it has {luma.bits} bits a colour"
    if luma.height % 2:
        return f"it has an odd height ({luma.height})"
    if 2 * shared[0].width < luma.width:
        return "four pixels of a row share their colour"
    return ""


def _turned(picture: np.ndarray, quarters: int) -> np.ndarray:
    return np.rot90(picture, quarters)


def _said(error: Exception) -> str:
    """A library's message without its address and number."""
    return str(getattr(error, "strerror", None) or error)
