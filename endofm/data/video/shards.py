"""Clips inside tar shards, on disk or at an address, read by byte range.

A manifest's path `shards/000000.tar/clip.mp4` names a member of a tar. Beside the tars lies
`index.json`, which says where each member begins; where the tars themselves lie elsewhere, the file
`address.txt` has that place in its first line, such as `s3://bucket/corpus/shards`, for fsspec.

A clip is one request, so that any order of clips, and going on in the middle of it, is as with
files. Nothing is fetched but the clips that are shown.
"""

import functools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec  # type: ignore[import-untyped]
import numpy as np

from endofm.data.loading.closing import Closing
from endofm.errors import VideoError

if TYPE_CHECKING:
    from endofm.data.video.reader import VideoReader

INDEX, ADDRESS = "index.json", "address.txt"


@dataclass(frozen=True)
class ShardMember:
    """Bytes `start` to `stop` of a tar: one clip."""

    tar: str
    """A path or an address."""
    name: str
    start: int
    stop: int

    def fetch(self) -> bytes:
        """The clip's bytes; raises `VideoError`."""
        try:
            data = bytes(_fetch(self.tar, self.start, self.stop, os.getpid()))
        except Exception as error:  # each store has errors of its own
            raise VideoError(
                f"{self.tar}/{self.name} can't be fetched ({error}); check the address and the "
                "permissions."
            ) from error
        if len(data) < self.stop - self.start:
            raise VideoError(
                f"{self.tar} ends before {self.name} does; copy the shard there again."
            )
        return data


def in_shard(path: Path) -> bool:
    """Whether a path names a member of a tar rather than a file in a folder."""
    return path.parent.suffix == ".tar" and not path.parent.is_dir()


def find_member(path: Path) -> ShardMember:
    """Where a clip lies; raises `VideoError` for one that the index does not have."""
    folder, tar = path.parent.parent, path.parent.name
    index = folder / INDEX
    if not index.is_file():
        raise VideoError(
            f"{index} does not exist, so {path} can't be found in its shard; copy it from where "
            "the corpus was packed."
        )
    members = _read_index(index, index.stat().st_mtime_ns)
    if path.name not in members.get(tar, {}):
        raise VideoError(
            f"{index} has no {tar}/{path.name}; manifest and shards are not of one packing."
        )
    start, size = members[tar][path.name]
    return ShardMember(_place(folder, tar), path.name, start, start + size)


def missing_reason(path: Path) -> str | None:
    """Why a clip can't be there, as far as that is known without asking an address."""
    try:
        member = find_member(path)
    except VideoError as error:
        return str(error)
    is_here = (path.parent.parent / ADDRESS).is_file() or path.parent.is_file()
    return None if is_here else f"{member.tar} does not exist; copy the shard there."


class UnpackedClip(Closing):
    """A reader of a clip that was fetched; its file goes when it is closed."""

    def __init__(self, member: ShardMember, reader: str):
        from endofm.data.video.reader import open_video

        data = member.fetch()
        # A file, since not every decoder reads from memory.
        with tempfile.NamedTemporaryFile(suffix=Path(member.name).suffix, delete=False) as file:
            file.write(data)
        self._file = Path(file.name)
        try:
            self._reader: VideoReader = open_video(self._file, reader)  # type: ignore[arg-type]
        except VideoError as error:
            self._file.unlink()
            raise self._named(error, member) from error
        except BaseException:
            self._file.unlink()
            raise
        self._member = member
        self.fps, self.size = self._reader.fps, self._reader.size

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """See `VideoReader`."""
        try:
            return self._reader.read(indices, size)
        except VideoError as error:
            raise self._named(error, self._member) from error

    def stream(
        self, indices: Sequence[int], size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoReader`."""
        try:
            yield from self._reader.stream(indices, size)
        except VideoError as error:
            raise self._named(error, self._member) from error

    def close(self) -> None:
        """Give the file back."""
        self._reader.close()
        self._file.unlink(missing_ok=True)

    def _named(self, error: VideoError, member: ShardMember) -> VideoError:
        """The same sentence about the shard, which the user knows, not about our file."""
        return VideoError(str(error).replace(str(self._file), f"{member.tar}/{member.name}"))


def _place(folder: Path, tar: str) -> str:
    address = folder / ADDRESS
    if (folder / tar).is_file() or not address.is_file():
        return str(folder / tar)
    return address.read_text(encoding="utf-8").splitlines()[0].strip().rstrip("/") + f"/{tar}"


@functools.lru_cache(maxsize=16)
def _read_index(file: Path, changed: int) -> dict[str, dict[str, tuple[int, int]]]:
    try:
        found: dict[str, dict[str, tuple[int, int]]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VideoError(f"{file} can't be read ({error}); copy it again.") from error
    return found


def _fetch(tar: str, start: int, stop: int, process: int) -> bytes:
    system, path = _system(tar, process)
    data: bytes = system.cat_file(path, start=start, end=stop)
    return data


@functools.lru_cache(maxsize=64)
def _system(tar: str, process: int) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store that holds a tar, opened once in a process: it must not go through a fork."""
    system, path = fsspec.core.url_to_fs(tar)
    return system, path
