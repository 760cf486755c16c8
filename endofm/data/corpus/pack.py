"""A prepared corpus as WebDataset shards: tars of clips with their labels, and an index.

```
manifest.csv                   as the corpus's, with paths into the tars
shards/000000.tar              <key>.mp4 and <key>.json for every clip
shards/index.json              where each member begins, and its size
```
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.data.video.shards import ADDRESS, INDEX
from endofm.errors import CorpusError
from endofm.files import new_file, write_text

Sizes = dict[str, tuple[int, int]]


def pack(
    manifest: Path,
    target: Path,
    shard_megabytes: int = 512,
    address: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the clips of a manifest into tars; finished tars stay, and each is read back.

    `address`: where the tars will lie when they are copied elsewhere; the index and the manifest
    stay here. Returns the new manifest. Raises `CorpusError` for clips that are folders or parts of
    files, and for a target that holds something else.
    """
    segments = read_manifest(manifest)
    _check_packable(manifest, segments)
    shards = list(_divided(segments, shard_megabytes * 1_000_000))
    folder = target / "shards"
    _claim(folder, segments, shard_megabytes)
    index: dict[str, Sizes] = {}
    rows: list[Segment] = []
    for number, shard in enumerate(shards):
        name = f"{number:06d}.tar"
        index[name] = _write_shard(folder / name, shard)
        rows += [
            replace(s, root=target, path=f"shards/{name}/{_key(s)}.mp4", masks="", boxes="")
            for s in shard
        ]
        if progress is not None:
            progress(number + 1, len(shards))
    write_text(folder / INDEX, json.dumps(index))
    if address:
        write_text(folder / ADDRESS, f"{address}\n")
    write_manifest(target / "manifest.csv", rows)
    return target / "manifest.csv"


def _check_packable(manifest: Path, segments: Sequence[Segment]) -> None:
    seen: set[str] = set()
    for segment in segments:
        if not segment.file.is_file() or segment.file.suffix != ".mp4":
            raise CorpusError(
                f"{segment.file} is no mp4 file; shards hold clips that `prepare` wrote with "
                "h264, hevc or copy."
            )
        if segment.start_frame or segment.path in seen:
            raise CorpusError(
                f"{manifest} has {segment.name}, a part of a file; shards hold whole clips, as "
                "manifest.csv of a prepared corpus has them."
            )
        seen.add(segment.path)


def _divided(segments: Sequence[Segment], num_bytes: int) -> Iterator[list[Segment]]:
    shard: list[Segment] = []
    size = 0
    for segment in segments:
        here = segment.file.stat().st_size
        if shard and size + here > num_bytes:
            yield shard
            shard, size = [], 0
        shard.append(segment)
        size += here
    yield shard


def _claim(folder: Path, segments: Sequence[Segment], shard_megabytes: int) -> None:
    """Make the folder this corpus's, or find that it is already."""
    files = [(s.path, s.file.stat().st_size, sorted(s.labels.items())) for s in segments]
    mark = hashlib.sha256(repr((shard_megabytes, files)).encode()).hexdigest()
    note = folder / "packed.txt"
    if note.is_file():
        if note.read_text(encoding="utf-8").strip() != mark:
            raise CorpusError(
                f"{folder} holds another corpus, or another version of it; give another folder."
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise CorpusError(f"{folder} holds other files; give an empty folder or a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(note, f"{mark}\n")


def _key(segment: Segment) -> str:
    """What WebDataset calls a sample: no dot, no folder, and told apart by its path's hash."""
    readable = re.sub(r"[^\w-]+", "_", segment.path.removeprefix("clips/").removesuffix(".mp4"))
    digest = hashlib.blake2b(segment.path.encode(), digest_size=4).hexdigest()
    return f"{readable[-80:]}-{digest}"


def _write_shard(file: Path, segments: Sequence[Segment]) -> Sizes:
    """Write a tar unless it is there, and return where its clips are, read back."""
    if not file.is_file():
        with new_file(file) as part:
            with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
                for segment in segments:
                    about = {
                        "path": segment.path,
                        "group": segment.group,
                        "split": segment.split,
                        "labels": dict(segment.labels),
                        "num_frames": segment.num_frames,
                    }
                    _add(tar, f"{_key(segment)}.mp4", segment.file.read_bytes())
                    _add(tar, f"{_key(segment)}.json", json.dumps(about).encode())
            _check_complete(part, segments)
    with tarfile.open(file, "r:") as tar:
        return {e.name: (e.offset_data, e.size) for e in tar if e.name.endswith(".mp4")}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _check_complete(part: Path, segments: Sequence[Segment]) -> None:
    with tarfile.open(part, "r:") as tar:
        for segment in segments:
            member = tar.extractfile(f"{_key(segment)}.mp4")
            if member is None or member.read() != segment.file.read_bytes():
                raise CorpusError(f"{part} does not hold {segment.path} as it is; pack it again.")
