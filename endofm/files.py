"""The one writer: a file or folder is there complete or not at all, after a power cut too.

A kill can leave a `NAME.part` behind; the next writer of the same name takes its place.
"""

import csv
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from endofm.errors import OutputError, RunError

PART = ".part"
WAY_OUT = "make room, or choose another place"


@contextmanager
def new_file(path: Path, way_out: str = WAY_OUT, shared: bool = False) -> Iterator[Path]:
    """Yield where to write a file; it takes the name `path` once it is complete and on the disk.

    Whatever ends the block early removes what was written and leaves an older file untouched.
    `shared` where several processes may write the same file at once: each has a place of its own.
    Raises `OutputError`, which names `way_out`, where it can't be written.
    """
    mark = f".{secrets.token_hex(4)}" if shared else ""
    part = path.with_name(f"{path.name}{mark}{PART}")
    with _told(path, part, way_out):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(part)
            yield part
            settle(part, path)
        finally:
            _remove(part)


def settle(part: Path, path: Path) -> None:
    """Bring a complete file to the disk, and only then give it its name."""
    flush(part)
    part.replace(path)
    flush(path.parent)


@contextmanager
def new_folder(path: Path, way_out: str = WAY_OUT) -> Iterator[Path]:
    """`new_file` for a folder of files; an older folder of that name is replaced."""
    part = path.with_name(path.name + PART)
    with _told(path, part, way_out):
        try:
            _remove(part)
            part.mkdir(parents=True)
            yield part
            for inside in (*part.rglob("*"), part):
                flush(inside)
            _remove(path)
            part.rename(path)
            flush(path.parent)
        finally:
            _remove(part)


def make_folder(path: Path, way_out: str = WAY_OUT) -> None:
    """Make a folder, and those above it, unless it is there."""
    with _told(path, path, way_out):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str, way_out: str = WAY_OUT) -> None:
    """Write a text file as UTF-8; what UTF-8 can't hold (half a surrogate pair) becomes `?`."""
    with new_file(path, way_out) as part:
        part.write_text(text, encoding="utf-8", errors="replace", newline="")


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], way_out: str = WAY_OUT
) -> None:
    """Write a table, row by row."""
    with new_file(path, way_out) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns])
        csv.writer(file).writerows(rows)


def write_bytes(path: Path, data: bytes, way_out: str = WAY_OUT) -> None:
    """Write bytes."""
    with new_file(path, way_out) as part:
        part.write_bytes(data)


def hold(lock: Path, taken: str) -> IO[str]:
    """Hold a lock until the returned file is closed or the process ends, however it ends.

    Raises `RunError` with the sentence `taken` where another process holds it, `OutputError` where
    the file can't be made. On a file system without locks nobody is kept out, which is said once.
    """
    with _told(lock, lock, WAY_OUT):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a", encoding="utf-8")
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers inherit flock's, not this
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            file.close()
            raise RunError(taken) from error
        sys.stderr.write(
            f"warning: {lock.parent} lies on a file system without locks ({error.strerror}), so "
            "that a second run in it would not be noticed; start none.\n"
        )
    return file


def flush(path: Path) -> None:
    """Have the system write a file or folder to the disk before its new name is."""
    if os.name == "nt" and path.is_dir():  # folders have no handle there
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path, part: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except _write_faults() as error:
        about = getattr(error, "filename", None)
        if about is not None and not _is_ours(Path(os.fsdecode(about)), path, part):
            raise  # about something that was read meanwhile
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{path} can't be written ({reason}); {way_out}.") from error


def _is_ours(about: Path, path: Path, part: Path) -> bool:
    return about in (path, *path.parents, part) or part in about.parents


def _write_faults() -> tuple[type[Exception], ...]:
    """The system's, and safetensors' own for a full disk."""
    safetensors = sys.modules.get("safetensors")  # not imported for this
    return (OSError,) if safetensors is None else (OSError, safetensors.SafetensorError)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
