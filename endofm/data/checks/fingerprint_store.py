"""Fingerprints of whole manifests: in parallel, kept on disk, taken up where left."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from endofm.data.checks.fingerprint import FORMAT, Fingerprint, fingerprint
from endofm.data.checks.ordering import Ordering
from endofm.data.manifests.manifest import Segment
from endofm.data.video.dicom import series_files
from endofm.data.video.frames import image_files
from endofm.data.video.shards import INDEX, find_member, in_shard
from endofm.errors import RunError, VideoError
from endofm.files import new_file

_PER_TASK = 32  # clips that a worker is given at a time
_NUMBERS = ("num_frames", "fps", "thumb_step", "frozen_share", "dark_share")

Progress = Callable[[int, int], None]


class Store:
    """A folder with a file for each fingerprint, named by what was decoded.

    The name depends on the file's path, size and time of change, and on the clip's frames: where
    one of them changes, the clip is decoded again.
    """

    def __init__(self, folder: Path) -> None:
        """Fingerprints in `folder`, which is made when the first one is written."""
        self.folder = Path(folder)

    @staticmethod
    def default() -> Path:
        """Where fingerprints lie unless said otherwise: the user's cache."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "endofm" / "fingerprints"

    def file(self, segment: Segment) -> Path:
        """Where a clip's fingerprint lies. Raises `VideoError` where the clip can't be found."""
        try:
            state = _state(segment.file)
        except OSError as error:
            raise VideoError(
                f"{segment.file} can't be found ({error.strerror}); mend the manifest or its root."
            ) from error
        said = repr((FORMAT, state, segment.start_frame, segment.stop_frame))
        name = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def has(self, segment: Segment) -> bool:
        """Whether there is a file for a clip; one that isn't whole is made again when loaded."""
        try:
            return self.file(segment).is_file()
        except VideoError:
            return False

    def load(self, segment: Segment) -> Fingerprint | None:
        """A fingerprint made before; a file that isn't whole counts for nothing."""
        try:
            with np.load(self.file(segment), allow_pickle=False) as data:
                return _from_arrays(data)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def make(self, segment: Segment) -> Fingerprint:
        """Load or decode. Raises `VideoError` for a clip that can't be decoded."""
        known = self.load(segment)
        if known is not None:
            return known
        made = fingerprint(segment)
        file = self.file(segment)
        with new_file(file, "give another --cache", shared=True) as part, part.open("wb") as opened:
            np.savez_compressed(opened, **_to_arrays(made))
        return made


def fingerprint_all(
    segments: Sequence[Segment], store: Store, workers: int = 1, progress: Progress | None = None
) -> dict[int, str]:
    """See to it that every clip's fingerprint is in the store; why not, for those that have none.

    Keys of the answer are numbers of `segments`. Workers are fresh processes, for a fork beside
    OpenCV's threads hangs. Raises `RunError` where a worker dies.
    """
    broken: dict[int, str] = {}
    # Clips of one file stay together: its timetable is read once a process.
    order = sorted(range(len(segments)), key=lambda i: (str(segments[i].file), i))
    missing = [number for number in order if not store.has(segments[number])]
    tasks = [missing[at : at + _PER_TASK] for at in range(0, len(missing), _PER_TASK)]
    done = len(order) - len(missing)
    for numbers, reasons in _results(segments, tasks, store, workers):
        broken |= reasons
        done += len(numbers)
        if progress is not None:
            progress(done, len(segments))
    return broken


def _results(
    segments: Sequence[Segment], tasks: list[list[int]], store: Store, workers: int
) -> Iterator[tuple[list[int], dict[int, str]]]:
    def some(task: list[int]) -> dict[int, Segment]:
        return {number: segments[number] for number in task}

    if workers < 2 or len(tasks) < 2:
        for task in tasks:
            yield task, _work(store, some(task))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
        waiting = iter(tasks)
        running = {}
        try:
            for task in islice(waiting, 2 * workers):
                running[pool.submit(_work, store, some(task))] = task
            while running:
                future = next(as_completed(running))
                yield running.pop(future), future.result()
                for task in islice(waiting, 1):
                    running[pool.submit(_work, store, some(task))] = task
        except BrokenProcessPool as error:
            first = min(segments[number].name for task in running.values() for number in task)
            raise RunError(
                f"A process that decodes was killed at {first} or one of the clips after it; free "
                "memory or lower --workers, then run the command again: it goes on from there."
            ) from error


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _work(store: Store, segments: Mapping[int, Segment]) -> dict[int, str]:
    """Make fingerprints; why not, for clips that can't be decoded."""
    broken = {}
    for number, segment in segments.items():
        try:
            store.make(segment)
        except VideoError as error:
            broken[number] = str(error)
    return broken


def _state(file: Path) -> tuple[Any, ...]:
    """What tells whether a file, the frames in a folder, or a clip in a tar are the same still.

    Of a tar that lies at an address, only the index is here to be looked at.
    """
    if in_shard(file):
        member = find_member(file)
        stat = (file.parent if file.parent.is_file() else file.parent.parent / INDEX).stat()
        return (member.tar, member.start, member.stop, stat.st_size, stat.st_mtime_ns)
    if not file.is_dir():
        stat = file.stat()
        return (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    frames = image_files(file) or series_files(file)
    pictures = [(picture.name, picture.stat()) for picture in frames]
    return (
        str(file.resolve()),
        *((name, stat.st_size, stat.st_mtime_ns) for name, stat in pictures),
    )


def _to_arrays(made: Fingerprint) -> dict[str, Any]:
    arrays = {name: np.array(getattr(made, name)) for name in _NUMBERS}
    ordering = np.array(list(asdict(made.ordering).values()))
    content = np.array(made.content)
    return {
        **arrays,
        "size": np.array(made.size),
        "content": content,
        "thumbs": made.thumbs,
        "ordering": ordering,
    }


def _from_arrays(data: Mapping[str, Any]) -> Fingerprint:
    numbers = {name: data[name].item() for name in _NUMBERS}
    height, width = data["size"].tolist()
    return Fingerprint(
        **numbers,
        size=(height, width),
        content=str(data["content"].item()),
        thumbs=data["thumbs"],
        ordering=Ordering(*data["ordering"].tolist()),
    )
