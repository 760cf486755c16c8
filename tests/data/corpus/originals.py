"""Small downloads in the layouts of the originals, their files in no order on the disk."""

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from endofm.data.corpus.prepare import Job
from endofm.data.corpus.work import ClipOptions
from tests.make import numbered_frame, write_video

SIZE = (48, 64)


def picture(index: int, suffix: str = ".png", size: tuple[int, int] = SIZE) -> bytes:
    """A numbered frame as a file."""
    _, data = cv2.imencode(suffix, numbered_frame(index, size)[..., ::-1])
    return data.tobytes()


def mask(left: int, right: int, suffix: str = ".png", size: tuple[int, int] = SIZE) -> bytes:
    """White columns from `left` to `right`, excluded, on black."""
    array = np.zeros(size, np.uint8)
    array[:, left:right] = 255
    return cv2.imencode(suffix, array)[1].tobytes()


def write_tree(root: Path, files: Mapping[str, bytes | str | int]) -> Path:
    """Files by name, written in a scrambled order; a number is a video of so many frames."""
    names = list(files)
    random.Random(0).shuffle(names)
    for name in names:
        content, path = files[name], root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            write_video(path, content, size=SIZE)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(content)
    return root


def zipped(folder: Path, archive: Path) -> Path:
    """A folder as a zip file."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                file.write(path, path.relative_to(folder).as_posix())
    return archive


def voc(boxes: list[tuple[int, int, int, int, str]], path: str = "", filename: str = "") -> str:
    """A VOC annotation."""
    objects = "".join(
        f"<object><name>{kind}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d, kind in boxes
    )
    return f"<annotation><filename>{filename}</filename><path>{path}</path>{objects}</annotation>"


def own(source: Path, out: Path, **changes: Any) -> Job:
    """A job for a folder of one's own, in clips of a second; `options` are the clips'."""
    options = ClipOptions(**{"clip_seconds": 1.0, **changes.pop("options", {})})
    return Job("own_folder", source, out, options, **changes)
