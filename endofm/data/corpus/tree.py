"""A download as it lies on disk: folders, and zip and tar archives read without unpacking.

An archive is seen as if it were unpacked where it lies. Names are relative, with forward slashes,
and come in natural order whatever the order on disk.
"""

import bisect
import contextlib
import functools
import itertools
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from endofm.data.manifests.folder import is_utf8
from endofm.data.places import leads_out
from endofm.data.video.frames import IMAGE_SUFFIXES, natural_key
from endofm.data.video.reader import VIDEO_SUFFIXES
from endofm.errors import CorpusError, VideoError

# What zipfile raises for a damaged member, and for one packed by a method it does not know.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar", ".7z")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a download: on disk, or inside the archive `path`.

    Small, and fit to be sent to another process.
    """

    path: Path
    """The file, or the archive that holds it."""
    inside: str = ""
    """Name within the archive; empty for a file on disk."""
    offset: int = -1
    """Where it begins in a tar; -1: no tar."""
    size: int = 0
    """Bytes, uncompressed."""

    @property
    def name(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.inside).name if self.inside else self.path.name

    def __str__(self) -> str:
        return f"{self.path}/{self.inside}" if self.inside else str(self.path)

    def read_bytes(self) -> bytes:
        """All of it; raises `OSError` or `VideoError` for a damaged archive."""
        if not self.inside:
            return self.path.read_bytes()
        if self.offset >= 0:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        try:
            return _opened_zip(self.path, os.getpid()).read(self.inside)
        except _DAMAGE as error:
            raise VideoError(
                f"{self} can't be read ({error}); fetch the archive again, or unpack it."
            ) from error

    def copy_to(self, target: Path) -> None:
        """Unpack or copy it, a part at a time; raises `OSError` or `VideoError`."""
        try:
            with contextlib.ExitStack() as stack:
                if self.inside and self.offset < 0:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    file: IO[bytes] = stack.enter_context(archive.open(self.inside))
                else:
                    file = stack.enter_context(self.path.open("rb"))
                    file.seek(max(0, self.offset))
                writing = stack.enter_context(target.open("wb"))
                left = self.size
                while left and (data := file.read(min(left, 1 << 20))):
                    writing.write(data)
                    left -= len(data)
        except _DAMAGE as error:
            raise VideoError(
                f"{self} can't be unpacked ({error}); fetch the archive again, or unpack it."
            ) from error

    def read_text(self) -> str:
        """All of it as UTF-8, with or without a byte-order mark; raises `CorpusError`."""
        try:
            return self.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{self} is not UTF-8 text ({error}); save it again as it."
            ) from error


class Tree:
    """All files below a folder, or in an archive, by relative name.

    Links to folders are followed, but not in a circle. `left_out` has a sentence for each path that
    is no part of the tree though it lies there. Raises `CorpusError` for a path that is no folder
    or archive, and for an archive that is broken, encrypted, or has a member outside of it.
    """

    def __init__(self, root: Path):
        self.root = Path(root).absolute()
        self.left_out: list[str] = []
        self._files: dict[str, Member] = {}
        archives: list[tuple[str, Path]] = []
        if self.root.is_dir():
            self._walk(self.root, "", (), archives)
        elif self.root.is_file() and _is_archive(self.root):
            archives.append(("", self.root))
        else:
            raise CorpusError(
                f"{self.root} is not a folder or a zip or tar archive; give the folder that the "
                "download was unpacked into."
            )
        for prefix, archive in archives:
            for name, member in _members(archive):
                self._files.setdefault(prefix + name, member)  # what was unpacked comes first
        self._names = _in_order(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Member:
        return self._files[name]

    def __len__(self) -> int:
        return len(self._names)

    def names(
        self, under: str = "", suffixes: frozenset[str] | set[str] | None = None
    ) -> list[str]:
        """Names below a folder, at any depth, that end in one of `suffixes`; natural order."""
        if not under:
            found = iter(self._names)
        else:
            first = bisect.bisect_left(self._names, _place(f"{under}/"), key=_place)
            below = itertools.islice(self._names, first, None)
            found = itertools.takewhile(lambda name: name.startswith(f"{under}/"), below)
        return [
            name
            for name in found
            if suffixes is None or PurePosixPath(name).suffix.lower() in suffixes
        ]

    def videos(self, under: str = "") -> list[str]:
        """Names of videos below a folder."""
        return self.names(under, VIDEO_SUFFIXES)

    def pictures(self, under: str = "") -> list[str]:
        """Names of pictures below a folder."""
        return self.names(under, IMAGE_SUFFIXES)

    def folders_of_pictures(self, under: str = "") -> dict[str, list[str]]:
        """Folder -> the pictures that lie directly in it, both in natural order."""
        found: dict[str, list[str]] = {}
        for name in self.pictures(under):
            found.setdefault(str(PurePosixPath(name).parent), []).append(name)
        return found

    def top(self) -> list[str]:
        """The first parts of all names."""
        return list(dict.fromkeys(name.split("/")[0] for name in self._names))

    def base(self, *wanted: str) -> str | None:
        """The folder (`""` or `a/b/`) in which all of `wanted` lie, as files or folders.

        The highest one, at most three levels down: downloads are unpacked with or without folders
        of their own. `None` where there is none.
        """
        candidates = {""}
        for name in self._names:
            parts = name.split("/")[:-1]
            candidates.update(
                "/".join(parts[: depth + 1]) + "/" for depth in range(min(3, len(parts)))
            )
        for base in sorted(candidates, key=lambda text: (text.count("/"), natural_key(text))):
            if all(self._has(base + part) for part in wanted):
                return base
        return None

    def _has(self, name: str) -> bool:
        return name in self._files or name in self._folders

    @functools.cached_property
    def _folders(self) -> frozenset[str]:
        found: set[str] = set()
        for name in self._names:
            parent = name.rpartition("/")[0]
            while parent and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return frozenset(found)

    def _walk(
        self, folder: Path, prefix: str, above: tuple[str, ...], archives: list[tuple[str, Path]]
    ) -> None:
        here = str(folder.resolve())
        if here in above:
            self.left_out.append(
                f"{folder} is a link that leads back to {here}, which holds it; remove the link."
            )
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.left_out.append(
                f"{folder} can't be listed ({error.strerror}); correct its permissions."
            )
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if not is_utf8(entry.name):
                self.left_out.append(f"{path!a} has a name that is not UTF-8; rename it.")
                continue
            try:
                if entry.is_dir():
                    self._walk(path, f"{prefix}{entry.name}/", (*above, here), archives)
                elif not entry.is_file():
                    self.left_out.append(f"{path} is a link that leads nowhere; mend or remove it.")
                elif _is_archive(path):
                    archives.append((prefix, path))
                elif entry.name.lower().endswith(_COMPRESSED_TARS):
                    self.left_out.append(
                        f"{path} is compressed as a whole and can't be read by parts; unpack it."
                    )
                else:
                    self._files[prefix + entry.name] = Member(path, size=entry.stat().st_size)
            except OSError as error:  # a loop of links
                self.left_out.append(f"{path} can't be followed ({error.strerror}); mend the link.")


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted naturally, folder by folder; what lies in a folder comes before what lies below it.

    A folder at a time, since keys take much more memory than names.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return [
        name
        for folder in sorted(folders, key=_order)
        for name in sorted(folders[folder], key=lambda n: natural_key(n.rpartition("/")[2]))
    ]


def _place(name: str) -> tuple[object, ...]:
    """What `_in_order` sorts by."""
    folder, _, base = name.rpartition("/")
    return _order(folder), natural_key(base)


def _order(folder: str) -> list[tuple[tuple[int, int, str], ...]]:
    return [natural_key(part) for part in folder.split("/")] if folder else []


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() in (".zip", ".tar")


def _members(archive: Path) -> Iterator[tuple[str, Member]]:
    """The files of an archive that an adapter may want, checked."""
    listing: Callable[[Path], Iterator[tuple[str, Member]]]
    listing = _zip_members if archive.suffix.lower() == ".zip" else _tar_members
    try:
        for name, member in listing(archive):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if leads_out(name):
                raise CorpusError(
                    f"{archive} has the member {name[:200]!a}, which leads out of it; such an "
                    "archive is refused: fetch it from its original address."
                )
            if any(part.startswith(".") or part == "__MACOSX" for part in parts):
                continue
            yield "/".join(parts), member
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise CorpusError(
            f"{archive} is not a whole archive ({error}); the download may have stopped half way: "
            "fetch it again."
        ) from error


def _zip_members(archive: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                continue
            if entry.flag_bits & 1:
                raise CorpusError(
                    f"{archive} is encrypted; unpack it with its password and give the folder."
                )
            yield entry.filename, Member(archive, entry.filename, size=entry.file_size)


def _tar_members(archive: Path) -> Iterator[tuple[str, Member]]:
    # "r:" refuses a compressed tar, in which members can't be sought.
    with tarfile.open(archive, "r:") as file:
        for entry in file:
            if entry.isreg():
                member = Member(archive, entry.name, entry.offset_data, entry.size)
                if entry.offset_data + entry.size > archive.stat().st_size:
                    raise tarfile.TarError(f"{entry.name} is cut off")
                yield entry.name, member


@functools.lru_cache(maxsize=8)
def _opened_zip(path: Path, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
