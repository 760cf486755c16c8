"""Kvasir-Capsule (Smedsrud et al. 2021): videos of a capsule in the small bowel, some labelled."""

from collections.abc import Iterator, Mapping, Sequence

from endofm.data.corpus.adapters.common import check_columns, note_unmatched, stem
from endofm.data.corpus.labels import known, numbers, read_table
from endofm.data.corpus.source import Adapter, Box, Source, Stretch
from endofm.data.corpus.tree import Member, Tree

FINDINGS = (
    "Ampulla of Vater",
    "Angiectasia",
    "Blood - fresh",
    "Blood - hematin",
    "Erosion",
    "Erythema",
    "Foreign body",
    "Ileocecal valve",
    "Lymphangiectasia",
    "Normal clean mucosa",
    "Polyp",
    "Pylorus",
    "Reduced mucosal view",
    "Ulcer",
)
_KEYS = {"".join(filter(str.isalpha, name)).lower(): name.lower() for name in FINDINGS}

Row = Mapping[str, str]


def find(tree: Tree) -> Iterator[Source] | None:
    """Videos of `labelled_videos` and `unlabelled_videos`, stills of `labelled_images`."""
    videos = [name for name in tree.videos() if "labelled_videos" in name or "labeled" in name]
    stills = [n for n in tree.pictures() if "labelled_images" in n or "labeled" in n]
    return _sources(tree, videos, stills) if videos or stills else None


def _sources(tree: Tree, videos: list[str], stills: list[str]) -> Iterator[Source]:
    rows: list[dict[str, str]] = []
    for name in tree.names(suffixes={".csv"}):
        if stem(name) == "metadata":
            rows = read_table(tree[name])
            check_columns(tree[name], rows, "filename", "video_id", "frame_number", "finding_class")
            table = tree[name]
    by_video: dict[str, list[Row]] = {}
    by_file: dict[str, Row] = {}
    for row in rows:
        row["finding_class"] = _finding(table, row["finding_class"])
        by_video.setdefault(row["video_id"], []).append(row)
        by_file[stem(row["filename"])] = row
    if rows and videos:
        labelled = [stem(name) for name in videos if "unlabel" not in name]
        note_unmatched(tree, by_video, labelled, "video")
    for name in videos:
        found = by_video.get(stem(name), [])
        yield Source(
            name,
            video=tree[name],
            group=f"kvasir_capsule/{stem(name)}",
            stretches=_stretches(table, found) if found else (),
        )
    for name in stills:
        about = by_file.get(stem(name), {})
        yield Source(
            name,
            pictures=[tree[name]],
            group=f"kvasir_capsule/{stem(name).split('_')[0]}",
            labels={"finding": _finding(tree[name], name.split("/")[-2])},
            boxes={0: boxes} if (boxes := _boxes(about)) else None,
        )


def _finding(member: Member, value: str) -> str:
    key = "".join(filter(str.isalpha, value)).lower()
    known(member, "finding", value if key not in _KEYS else key, _KEYS)
    return _KEYS[key]


def _stretches(table: Member, rows: Sequence[Row]) -> list[Stretch]:
    """Frames in a row with the same findings; the others have no label."""
    findings: dict[int, set[str]] = {}
    for row in rows:
        (frame,) = numbers(table, 0, [row["frame_number"]])
        findings.setdefault(int(frame), set()).add(row["finding_class"])
    stretches: list[Stretch] = []
    for frame, found in sorted(findings.items()):
        labels = {"finding": ";".join(sorted(found))}
        last = stretches[-1] if stretches else None
        if last is not None and last.stop == frame and last.labels == labels:
            stretches[-1] = Stretch(last.start, frame + 1, labels)
        else:
            stretches.append(Stretch(frame, frame + 1, labels))
    return stretches


def _boxes(row: Row) -> list[Box]:
    """The upright box around four corners, where the row has them."""
    xs, ys = ([row.get(f"{axis}{i}", "") for i in range(1, 5)] for axis in "xy")
    if not all([*xs, *ys]):
        return []
    across, down = [float(x) for x in xs], [float(y) for y in ys]
    return [Box(min(across), min(down), max(across), max(down), row["finding_class"])]


KVASIR_CAPSULE = Adapter(
    "kvasir_capsule",
    "labelled_videos/*.mp4, unlabelled_videos/*.mp4, labelled_images/<finding>/*.jpg (the .tar.gz "
    "files unpacked) and metadata.csv",
    find,
    {"videos": 117},
)
