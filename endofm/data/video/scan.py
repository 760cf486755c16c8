"""What the packets of a file tell without decoding: when frames are shown, and which are spare."""

from collections.abc import Iterable

import av
import numpy as np

from endofm.data.video.h264 import Picture, Units
from endofm.data.video.timetable import Sparing

Packets = Iterable["av.Packet[av.VideoStream]"]


class Scan:
    """One pass over all packets; `num_probed` first frames are decoded beside it.

    `units` reads the packets' pictures, where their form is known.
    """

    def __init__(self, packets: Packets, num_probed: int, units: Units | None):
        self.num = self.num_hidden = 0
        self.is_open_gop = False
        self.keys: list[int] = []
        times: list[int | None] = []
        pictures: list[tuple[int, Picture]] = []
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
            elif self.keys and (time is not None or self.num > num_probed):
                times.append(time)
            if units is not None:
                picture = _picture(packet, units)
                if picture is None or time is None:
                    units = None  # the rest is not worth reading
                else:
                    pictures.append((time, picture))
        # Only leading pictures, which are probed, may come without a time.
        known = [time for time in times if time is not None]
        self.times: np.ndarray | None = np.unique(np.array(known, np.int64))
        if not known or len(self.times) < len(times):
            self.times = None
        self.sparing = None if units is None else _sparing(pictures, self.keys)

    def times_from(self, shown: list[int | None]) -> np.ndarray | None:
        """The table that starts with the times `shown`; `None` where packets say otherwise."""
        first = rising(shown)
        if self.times is None or first is None:
            return None
        times = self.times[self.times >= first[0]]
        return times if np.array_equal(times[: len(first)], first) else None


def rising(times: list[int | None]) -> np.ndarray | None:
    """As an array, if every one is known and later than the one before."""
    if None in times:
        return None
    array = np.array(times, np.int64)
    return array if (np.diff(array) > 0).all() else None


def _picture(packet: "av.Packet[av.VideoStream]", units: Units) -> Picture | None:
    """The frame in a packet, if it is whole and shown, and its key mark true."""
    if packet.is_discard or packet.is_corrupt:
        return None
    picture = units.picture(memoryview(packet))
    if picture is None or picture.is_instant != packet.is_keyframe:
        return None
    return picture


def _sparing(pictures: list[tuple[int, Picture]], keys: list[int]) -> Sparing | None:
    """What is spare in closed groups that are shown one after the other; `None` for others."""
    if not pictures or not pictures[0][1].is_instant:
        return None
    times = np.array([time for time, _ in pictures], np.int64)
    is_instant = np.array([picture.is_instant for _, picture in pictures])
    shown = np.argsort(times, kind="stable")
    group = (np.cumsum(is_instant) - 1)[shown]
    is_apart = (np.diff(group) >= 0).all() and (np.diff(times[shown]) > 0).all()
    begins_with_key = np.array_equal(times[shown][np.diff(group, prepend=-1) > 0], keys)
    # A group that is left out must not bring parameters for a later one.
    sets = {picture.parameters for _, picture in pictures if picture.is_instant}
    has_late_sets = any(picture.parameters for _, picture in pictures if not picture.is_instant)
    if not (is_apart and begins_with_key) or len(sets) > 1 or has_late_sets:
        return None
    is_spare = np.array([picture.is_spare for _, picture in pictures])[shown]
    return Sparing(shown, group, is_spare)
