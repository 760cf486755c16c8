"""Manifest rows from a folder of videos, frames and volumes."""

import math
import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from endofm.data.manifests.manifest import Segment
from endofm.data.video import VIDEO_SUFFIXES, VideoReader, open_video
from endofm.data.video.dicom import series_files
from endofm.data.video.frames import image_files, natural_key
from endofm.data.video.nifti import is_nifti
from endofm.errors import ManifestError, VideoError

_LABEL_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth"}
    | {"segmentation", "segmentations", "segmask", "segmasks"}
)
_CHECKED_FRAMES = 16


def manifest_from_folder(
    folder: Path,
    clip_seconds: float | None = 5.0,
    min_frames: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Segment], list[str]]:
    """Open and count every video, volume and folder of frames below `folder`.

    Videos are cut end to end into clips of `clip_seconds`, but of no less than `min_frames`; the
    last clip takes the remainder, and a shorter video is one clip (`None`: every video is one). A
    volume or folder of frames is one
    clip. Returns the clips in natural order and a sentence for each path that is left out;
    `progress` is told how many of how many paths are done. Raises `ManifestError` where `folder` is
    none.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds the videos.")
    if clip_seconds is not None and not 0 < clip_seconds < math.inf:
        raise ManifestError(
            f"clip_seconds is {clip_seconds}; clips must last longer than 0 s, and not for ever."
        )
    left_out: list[str] = []
    sources = list(find_sources(folder, left_out))
    segments: list[Segment] = []
    for done, source in enumerate(sources):
        if progress is not None:
            progress(done, len(sources))
        try:
            segments += _clips(folder, source, clip_seconds, min_frames)
        except VideoError as error:
            left_out.append(str(error))
    if progress is not None:
        progress(len(sources), len(sources))
    return segments, left_out


def find_sources(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Videos, NIfTI files and folders of frames or DICOM slices, in natural order, those above
    before those below.

    Links are not followed, so a file comes once and a loop ends. A sentence for each path that is
    left out is added to `left_out`.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
        has_frames = bool(image_files(folder) or series_files(folder))
    except OSError as error:
        left_out.append(f"{folder} can't be listed ({error.strerror}); correct its permissions.")
        return
    except VideoError as error:
        left_out.append(str(error))
        return
    if has_frames:
        yield folder
    folders = []
    for entry in entries:
        path = Path(entry.path)
        is_video = path.suffix.lower() in VIDEO_SUFFIXES or is_nifti(path)
        if entry.name.startswith("."):
            continue
        if not is_utf8(entry.name):
            left_out.append(f"{path!a} has a name that is not UTF-8; rename it.")
        elif entry.is_symlink():
            if is_video or path.is_dir():
                left_out.append(
                    f"{path} is a link, and links are not followed; put the file itself there or "
                    "give the folder that it lies in."
                )
        elif entry.is_dir() and _LABEL_WORDS & set(re.split(r"[^a-z]+", entry.name.lower())):
            left_out.append(f"{path} is named like a folder of labels; rename it if it is none.")
        elif entry.is_dir():
            folders.append(path)
        elif is_video:
            yield path
    for path in folders:
        yield from find_sources(path, left_out)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text; on a disk it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clips(
    folder: Path, source: Path, clip_seconds: float | None, min_frames: int
) -> list[Segment]:
    """Open a video or folder of frames and cut it."""
    with open_video(source) as video:
        num_frames, fps = len(video), video.fps
        if source.is_dir():
            _check_frames(video)
        elif not is_nifti(source):
            from endofm.data.video.pyav import timetable  # loads FFmpeg, which pictures don't need

            timetable(source, check=True)
    if num_frames < min_frames:
        frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
        raise VideoError(f"{source} has {frames}, fewer than {min_frames}; it is left out.")
    path = source.relative_to(folder).as_posix()
    bounds = _cuts(num_frames, clip_seconds, fps, min_frames)
    return [Segment(folder, path, start, stop, group=path) for start, stop in pairwise(bounds)]


def _cuts(num_frames: int, clip_seconds: float | None, fps: float, min_frames: int) -> list[int]:
    """Where clips of `min_frames` or more begin, and the end; the last one takes the remainder."""
    if clip_seconds is None or math.isnan(fps):
        return [0, num_frames]
    clip_frames = max(1, min_frames, round(clip_seconds * fps))
    num_clips = max(1, num_frames // clip_frames)
    return [clip * clip_frames for clip in range(num_clips)] + [num_frames]


def _check_frames(video: VideoReader) -> None:
    """Look at some frames, for a folder of stills in many sizes is no clip."""
    step = max(1, (len(video) - 1) // (_CHECKED_FRAMES - 1))
    for index in [*range(0, len(video), step), len(video) - 1]:
        video.read([index])
