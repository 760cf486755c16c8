"""Cholec80 (Twinanda et al. 2017): whole cholecystectomies with phases and tools."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import note_unmatched, stem
from endofm.data.corpus.labels import known, read_table
from endofm.data.corpus.source import Adapter, Source, Stretch, runs
from endofm.data.corpus.tree import Member, Tree

PHASES = (
    "Preparation",
    "CalotTriangleDissection",
    "ClippingCutting",
    "GallbladderDissection",
    "GallbladderPackaging",
    "CleaningCoagulation",
    "GallbladderRetraction",
)
TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
_VIDEO = re.compile(r"video(\d\d)$", re.IGNORECASE)


def find(tree: Tree) -> Iterator[Source] | None:
    """`videoNN.mp4`, with `videoNN-phase.txt` and `videoNN-tool.txt` wherever they lie."""
    videos = {m[1]: name for name in tree.videos() if (m := _VIDEO.search(stem(name)))}
    return _sources(tree, videos) if videos else None


def _sources(tree: Tree, videos: dict[str, str]) -> Iterator[Source]:
    tables = {stem(name).lower(): tree[name] for name in tree.names(suffixes={".txt"})}
    phases = {name.removesuffix("-phase") for name in tables if name.endswith("-phase")}
    note_unmatched(tree, phases, (f"video{number}" for number in videos), "video")
    for number, name in sorted(videos.items()):
        phase, tool = (tables.get(f"video{number}-{kind}") for kind in ("phase", "tool"))
        yield Source(
            f"video{number}",
            video=tree[name],
            group=f"cholec80/video{number}",
            split="train" if int(number) <= 40 else "test",
            stretches=_stretches(phase, tool),
        )


def _stretches(phase: Member | None, tool: Member | None) -> list[Stretch]:
    """Labels of every frame; a tool row holds until the next one."""
    frames: list[dict[str, str]] = []
    if phase is not None:
        for row in _rows(phase):
            frame = int(row["Frame"])
            frames += [{} for _ in range(frame + 1 - len(frames))]
            frames[frame] = {"phase": known(phase, "phase", row["Phase"], PHASES)}
    if tool is not None:
        rows = _rows(tool)
        starts = [int(row["Frame"]) for row in rows]
        step = starts[1] - starts[0] if len(starts) > 1 else 25
        for start, row in zip(starts, rows, strict=True):
            present = ";".join(name for name in TOOLS if row.get(name) == "1")
            frames += [{} for _ in range(start + step - len(frames))] if phase is None else []
            for frame in range(start, min(start + step, len(frames))):
                frames[frame] = {**frames[frame], "tool": present or "none"}
    return [stretch for stretch in runs(frames) if stretch.labels]


def _rows(member: Member) -> list[dict[str, str]]:
    """Rows divided by tabs or spaces."""
    return read_table(member, "\t ,;")


CHOLEC80 = Adapter(
    "cholec80",
    "videos/video01.mp4 with phase_annotations/video01-phase.txt and "
    "tool_annotations/video01-tool.txt",
    find,
    {"videos": 80},
)
