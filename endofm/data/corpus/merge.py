"""Tables of a prepared corpus: written when all its sources are finished, by one run or many."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from endofm.data.corpus.adapters import find_adapter
from endofm.data.corpus.records import Record, read_records
from endofm.data.corpus.source import Source
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import CorpusError
from endofm.files import new_file, write_csv

Plan = dict[str, dict[str, Any]]
"""Source -> its fingerprint and what its rows say, in the order of the manifest."""


def make_plan(sources: Sequence[Source]) -> Plan:
    """What the tables need to know of the sources, fit for JSON."""
    return {
        source.name: {
            "fingerprint": source.fingerprint,
            "group": source.group,
            "split": source.split,
            "labels": dict(source.labels),
            "stretches": [[s.start, s.stop, dict(s.labels)] for s in source.stretches],
        }
        for source in sources
    }


def merge(out: Path, progress: Callable[[int, int], None] | None = None) -> tuple[Path, list[str]]:
    """Verify that all shards are finished and whole, and write the tables of the corpus.

    Every file of clips and masks is read and its checksum compared. Returns the manifest and the
    sentences of what was left out. Raises `CorpusError` naming the shards to run again.
    """
    note, plan_file = out / "corpus.json", out / "plan.json"
    if not (note.is_file() and plan_file.is_file()):
        raise CorpusError(
            f"{out} was not written by `endofm corpus prepare`; give the folder that was its --out."
        )
    claim = json.loads(note.read_text(encoding="utf-8"))
    count = claim["shards"]
    plan: Plan = json.loads(plan_file.read_text(encoding="utf-8"))
    records = read_records(sorted((out / "records").glob("*.jsonl")))
    bad: dict[int, str] = {}
    for index, (name, row) in enumerate(plan.items()):
        record = records.get(name)
        if record is None or record["fingerprint"] != row["fingerprint"]:
            bad.setdefault(index % count + 1, f"{name} is not prepared")
    if not bad:
        shard_of = {name: index % count + 1 for index, name in enumerate(plan)}
        for name, fault in _damaged({name: records[name] for name in plan}, out, progress):
            bad.setdefault(shard_of[name], fault)
    if bad:
        shards = ", ".join(f"{number}/{count}" for number in sorted(bad))
        first = bad[min(bad)]
        again = f"--shard {shards}" if count > 1 else "the same command"
        raise CorpusError(f"{out} is not finished ({first}); run prepare again with {again}.")
    left_out = [records[name]["left_out"] for name in plan if "left_out" in records[name]]
    return write_tables(out, claim["dataset"], plan, records), left_out


def write_tables(out: Path, dataset: str, plan: Plan, records: Mapping[str, Record]) -> Path:
    """Manifest, stretches, boxes and checksums of what the records say; returns the manifest.

    Raises `CorpusError` where there is no clip.
    """
    clips, stretches = [], []
    for name, row in plan.items():
        for clip in records[name]["clips"]:
            clips.append(_clip_row(out, row, records[name], clip))
            stretches += _stretch_rows(out, row, records[name], clip)
    if not clips:
        raise CorpusError(f"{out} has no clip, so there is no manifest to write.")
    checksums = {
        file: digest
        for name in plan
        for clip in records[name]["clips"]
        for file, digest in clip["files"].items()
    }
    _write_lines(out / "checksums.txt", (f"{digest}  {file}" for file, digest in checksums.items()))
    _write_boxes(out / "boxes.csv", plan, records)
    if stretches:
        write_manifest(out / "stretches.csv", stretches)
    for name, rows in find_adapter(dataset).more_manifests(clips).items():
        write_manifest(out / f"{name}.csv", rows)
    write_manifest(out / "manifest.csv", clips)
    return out / "manifest.csv"


def _clip_row(
    out: Path, row: Mapping[str, Any], record: Record, clip: Mapping[str, Any]
) -> Segment:
    """A whole clip; a label that changes on the way has all its values, divided by `;`."""
    labels = dict(row["labels"])
    inside = list(_inside(row, record, clip["start"], clip["stop"]))
    for name in dict.fromkeys(name for _, _, found in inside for name in found):
        values = [v for _, _, found in inside for v in found.get(name, "").split(";") if v]
        labels[name] = ";".join(dict.fromkeys(values))
    return _segment(out, row, record, clip, 0, clip["stop"] - clip["start"], labels)


def _stretch_rows(
    out: Path, row: Mapping[str, Any], record: Record, clip: Mapping[str, Any]
) -> list[Segment]:
    """The parts of a clip over which no label changes; none where no frame is labelled."""
    return [
        _segment(out, row, record, clip, start, stop, {**row["labels"], **labels})
        for start, stop, labels in _inside(row, record, clip["start"], clip["stop"])
        if labels
    ]


def _inside(
    row: Mapping[str, Any], record: Record, first: int, last: int
) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Stretches of frame labels and of views within a clip, counted from its start."""
    stretches = [
        *((start, stop, labels) for start, stop, labels in row["stretches"]),
        *((start, stop, {"view": view}) for start, stop, view in record.get("views", [])),
    ]
    stretches = [s for s in stretches if s[0] < last and s[1] > first]
    if not stretches:
        return
    edges = {first, last} | {edge for s in stretches for edge in s[:2] if first < edge < last}
    ordered = sorted(edges)
    for start, stop in pairwise(ordered):
        labels: dict[str, str] = {}
        for begin, end, found in stretches:
            if begin <= start and end >= stop:
                labels |= found
        yield start - first, stop - first, labels


def _segment(
    out: Path,
    row: Mapping[str, Any],
    record: Record,
    clip: Mapping[str, Any],
    start: int,
    stop: int,
    labels: Mapping[str, str],
) -> Segment:
    boxes = "" if record.get("boxes") is None else "boxes.csv"
    masks = clip.get("masks", "")
    group, split = row["group"], row["split"]
    return Segment(out, clip["path"], start, stop, group, split, labels, masks, boxes)


def _write_boxes(file: Path, plan: Plan, records: Mapping[str, Record]) -> None:
    """Boxes of all clips, by the frame of the clip; no file where nothing is boxed."""
    rows: list[list[Any]] = []
    is_boxed = False
    for name in plan:
        record = records[name]
        if record.get("boxes") is None:
            continue
        is_boxed = True
        for clip in record["clips"]:
            rows += (
                [clip["path"], frame - clip["start"], *rest]
                for frame, *rest in record["boxes"]
                if clip["start"] <= frame < clip["stop"]
            )
    if is_boxed:
        write_csv(file, ("path", "frame", "x1", "y1", "x2", "y2", "label"), rows)


def _damaged(
    records: Mapping[str, Record], out: Path, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, str]]:
    """Sources with a file that is missing or is not the one written, and the sentence."""
    files = [
        (name, file, digest)
        for name, record in records.items()
        for clip in record["clips"]
        for file, digest in clip["files"].items()
    ]
    with ThreadPoolExecutor(4) as pool:
        digests = pool.map(lambda item: _digest(out / item[1]), files)
        for number, ((name, file, wanted), digest) in enumerate(
            zip(files, digests, strict=True), 1
        ):
            if progress is not None:
                progress(number, len(files))
            if digest is None:
                yield name, f"{file} is missing"
            elif digest != wanted:
                (out / file).unlink()  # so that the next run writes it anew
                yield name, f"{file} was damaged and is removed"


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    with new_file(file) as part, part.open("w", encoding="utf-8") as text:
        text.writelines(f"{line}\n" for line in lines)
