"""What the packets of an H.264 stream tell about its pictures, without decoding.

The places of the fields are those of ITU-T H.264, 7.3; packets are lengths and units, as MP4 and
Matroska store them (ISO/IEC 14496-15).
"""

from typing import NamedTuple

_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE_SET = 1, 5, 7, 8
_HARMLESS = frozenset({6, 9, 10, 11, 12})  # messages, delimiters, ends, filling
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class Picture(NamedTuple):
    """One packet's picture."""

    is_instant: bool
    """Whether nothing after it builds upon anything before it (IDR)."""
    is_spare: bool
    """Whether no other picture builds upon it."""
    parameters: bytes
    """Parameter sets that come with it."""


class Units:
    """Reads packets whose form the head of the stream describes."""

    def __init__(self, length_bytes: int):
        self._length_bytes = length_bytes

    def picture(self, packet: "bytes | memoryview[int]") -> Picture | None:
        """The one whole frame in a packet; `None` for whatever else may be in it."""
        num_pictures, kinds, is_spare, parameters = 0, set(), set(), b""
        place, end = 0, len(packet)
        while place < end:
            start = place + self._length_bytes
            place = start + int.from_bytes(packet[place:start], "big")
            if place > end or place < start + 2:
                return None
            kind = packet[start] & 31
            if kind in (_SLICE, _IDR_SLICE):
                kinds.add(kind)
                is_spare.add(packet[start] & 0x60 == 0)  # nal_ref_idc
                num_pictures += packet[start + 1] >> 7  # first_mb_in_slice is 0
            elif kind in (_SEQUENCE, _PICTURE_SET):
                unit = bytes(packet[start:place])
                if kind == _SEQUENCE and not _has_whole_frames(unit):
                    return None
                parameters += unit
            elif kind not in _HARMLESS:
                return None
        is_instant = kinds == {_IDR_SLICE}
        if num_pictures != 1 or len(kinds) != 1 or len(is_spare) != 1:
            return None
        if is_instant and is_spare == {True}:  # not allowed
            return None
        return Picture(is_instant, is_spare == {True}, parameters)


def units(head: bytes | None) -> Units | None:
    """A reader of packets; `None` where the stream's head (avcC) is absent, or allows fields."""
    if not head or len(head) < 7 or head[0] != 1:
        return None
    place = 6
    for _ in range(head[5] & 31):
        start = place + 2
        place = start + int.from_bytes(head[place:start], "big")
        if place > len(head) or not _has_whole_frames(head[start:place]):
            return None
    return Units(1 + (head[4] & 3))


def _has_whole_frames(unit: bytes) -> bool:
    """Whether a sequence parameter set is known to forbid fields (frame_mbs_only_flag)."""
    if len(unit) < 4:
        return False
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    bits.skip(32)  # kind, profile, constraints, level
    bits.number()
    if unit[1] in _HIGH_PROFILES:
        has_planes = bits.number() == 3 and bits.skip(1)
        bits.numbers(2)  # depths
        bits.skip(1)
        if has_planes or bits.skip(1):  # planes by themselves, or scaling lists: not read further
            return False
    bits.number()
    order_kind = bits.number()
    if order_kind == 0:
        bits.number()
    elif order_kind == 1:
        bits.skip(1)
        bits.numbers(2)
        bits.numbers(bits.number())
    bits.number()
    bits.skip(1)
    bits.numbers(2)  # width and height
    return bits.skip(1) == 1


class _Bits:
    """Bits one after the other; zeros beyond the end."""

    def __init__(self, data: bytes):
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def skip(self, count: int) -> int:
        """The next bits as a number."""
        self._place += count
        return int(self._text[self._place - count : self._place] or "0", 2)

    def number(self) -> int:
        """An Exp-Golomb number (9.1); of a signed one only the place after it is of use."""
        one = self._text.find("1", self._place)
        if one < 0:
            self._place = len(self._text)
            return 0
        zeros, self._place = one - self._place, one + 1
        return (1 << zeros) - 1 + (self.skip(zeros) if zeros else 0)

    def numbers(self, count: int) -> None:
        """Pass over so many."""
        for _ in range(min(count, len(self._text))):
            self.number()
