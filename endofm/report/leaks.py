"""Pairs of clips that share content, as pictures: frames of one above those of the other."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from endofm.data.leakage import Leak, Member
from endofm.data.manifests.manifest import Segment
from endofm.data.video import read_segment
from endofm.report.html import Heading, Picture, Section, Table, Text, write_page
from endofm.report.views import Image

HEIGHT, COLUMNS, GAP = 132, 6, 4
MAX_PAIRS = 60
"""Pairs that a page shows; the table beside it lists all."""

Pair = tuple[Member, Member, Leak]


def leaks_page(path: Path, pairs: Sequence[Pair], notes: str) -> Path:
    """Write one HTML page: what was found, and the pairs as pictures, the surest first."""
    shown = sorted(pairs, key=lambda pair: (pair[2].kind, -pair[2].correlation))[:MAX_PAIRS]
    counts: dict[str, int] = {}
    for _, _, leak in pairs:
        counts[leak.kind] = counts.get(leak.kind, 0) + 1
    rows = [[kind, f"{count:,}"] for kind, count in sorted(counts.items())]
    sections: list[Section] = [Text(notes)]
    if rows:
        sections.append(Table("Pairs", ("kind", "pairs"), rows))
    if len(pairs) > len(shown):
        sections.append(Text(f"The first {len(shown)} of {len(pairs):,} pairs are shown."))
    sections.append(Heading("Pairs as pictures"))
    sections += [Picture(_caption(*pair), pair_picture(*pair)) for pair in shown]
    return write_page(path, "Leaks", sections)


def pair_picture(first: Member, second: Member, leak: Leak) -> Image:
    """Up to six shared frames of the first clip, and below them those of the second."""
    strips = [
        _strip(first.segment, _stretch(leak.frames)),
        _strip(second.segment, _stretch(leak.against_frames)),
    ]
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(strip, ((0, GAP), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
        for strip in strips
    ]
    return np.concatenate(padded)


def _stretch(frames: str) -> tuple[int, int] | None:
    """`12-40` as numbers; `None`: the whole clip."""
    first, _, last = frames.partition("-")
    return (int(first), int(last)) if frames else None


def _strip(segment: Segment, stretch: tuple[int, int] | None) -> Image:
    """Frames evenly spread over a stretch of a clip, side by side."""

    def choose(length: int) -> list[int]:
        first, last = stretch or (0, length - 1)
        count = min(COLUMNS, last - first + 1)
        return [int(index) for index in np.linspace(first, min(last, length - 1), count).round()]

    frames, _ = read_segment(segment, choose, short_side=HEIGHT)
    return np.concatenate([_framed(frame) for frame in frames], 1)


def _framed(frame: Image) -> Image:
    width = max(1, round(frame.shape[1] * HEIGHT / frame.shape[0]))
    small = cv2.resize(frame, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.pad(small, ((0, 0), (0, GAP), (0, 0)), constant_values=255)


def _caption(first: Member, second: Member, leak: Leak) -> str:
    change = f", {leak.change}" if leak.change else ""
    told = {
        "exact": "equal to the last bit",
        "near": f"correlation {leak.correlation:.2f}{change}",
        "group": f"one group ({first.segment.group}) in two splits",
    }[leak.kind]
    return f"{_name(first, leak.frames)} and {_name(second, leak.against_frames)}: {told}."


def _name(member: Member, frames: str) -> str:
    split = f" ({member.segment.split})" if member.segment.split else ""
    within = f", frames {frames}" if frames else ""
    return f"{member.manifest.name}: {member.segment.name}{split}{within}"
