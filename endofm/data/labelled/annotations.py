"""What a clip's frames are labelled with, beside its own labels: masks and boxes.

A manifest's `masks` names a folder with one picture for every shown frame of the file, in natural
order and of the frames' size. With two classes, values above 127 are class 1; with more, a value
is its class, and 255 doesn't count.

Its `boxes` names a CSV table with the columns `frame`, `x1`, `y1`, `x2`, `y2` and, where there are
several classes, `label`: shown frame of the file from 0, and inclusive corners in its pixels. With
a column `path` one table serves many files. A frame without a row has no box.
"""

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from endofm.data.manifests.manifest import Segment
from endofm.data.video import open_video
from endofm.data.video.frames import image_files, is_cut_off
from endofm.errors import ManifestError, VideoError

IGNORED = 255
"""Value of a mask's pixels that don't count."""
BOX_COLUMNS = ("frame", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Boxes:
    """The boxes of one frame: `corners` float32 [N, 4] and `classes` int64 [N].

    Corners are x1, y1, x2, y2 at the edges of pixels: a box of one pixel has width and height 1.
    """

    corners: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Boxes (N)."""
        return len(self.corners)


def read_masks(
    segment: Segment,
    indices: Sequence[int],
    num_classes: int = 2,
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """The masks uint8 [n, H, W] of frames of a clip, counted from its start: 0 to K - 1, or 255.

    `size` (H, W) is what they must have. Raises `VideoError` for a mask that is missing, broken, of
    another size or with a value that is no class.
    """
    folder = segment.root / segment.masks
    files = _mask_files(segment)
    masks: list[npt.NDArray[np.uint8]] = []
    for index in indices:
        number = segment.start_frame + index
        if not 0 <= number < len(files):
            raise VideoError(
                f"{folder} has {len(files)} masks, so there is none for frame {number} of "
                f"{segment.file}; a folder of masks has one for every frame."
            )
        masks.append(_decode(files[number], num_classes))
        height, width = masks[-1].shape
        wanted = size or masks[0].shape
        if (height, width) != wanted:
            raise VideoError(
                f"{files[number]} is {width}x{height}, but the frames of {segment.name} are "
                f"{wanted[1]}x{wanted[0]}; masks have the size of the file's frames."
            )
    return np.stack(masks)


def read_boxes(
    segment: Segment, indices: Sequence[int], classes: Sequence[str] = ("",)
) -> list[Boxes]:
    """The boxes of frames of a clip, counted from its start; `classes` are the labels in order.

    With one class, every box is of it. Raises `ManifestError` for a table that is missing or
    malformed, and for a label that is not one of the classes.
    """
    table = _box_table(segment)
    found = []
    for index in indices:
        rows = table.get(segment.start_frame + index, ())
        numbers = [_class_number(segment, label, classes) for _, label in rows]
        corners = np.array([corners for corners, _ in rows], np.float32).reshape(-1, 4)
        found.append(Boxes(corners, np.array(numbers, np.int64)))
    return found


def check_annotations(
    segment: Segment, num_classes: int = 2, classes: Sequence[str] = ("",)
) -> None:
    """Open a clip's file and hold its masks and boxes against it, before anything is trained.

    Raises `VideoError` or `ManifestError` where there is not one mask for each frame, where the
    first mask has another size, and for boxes of absent frames or beyond the frame's edges.
    """
    with open_video(segment.file) as video:
        num_frames, (height, width) = len(video), video.size
    if segment.masks:
        files = _mask_files(segment)
        if len(files) != num_frames:
            raise VideoError(
                f"{segment.root / segment.masks} has {len(files)} masks, but {segment.file} has "
                f"{num_frames} frames; a folder of masks has one for every frame."
            )
        read_masks(segment, [0], num_classes, (height, width))
    if segment.boxes:
        table = _box_table(segment)
        for frame, rows in table.items():
            if frame >= num_frames:
                raise ManifestError(
                    f"{segment.root / segment.boxes} has a box in frame {frame} of {segment.path}, "
                    f"which has {num_frames} frames; frames are counted from 0."
                )
            for (_, _, right, bottom), label in rows:
                _class_number(segment, label, classes)
                if right > width or bottom > height:
                    raise ManifestError(
                        f"{segment.root / segment.boxes} has a box in frame {frame} of "
                        f"{segment.path} that ends at x2 {right - 1:g}, y2 {bottom - 1:g}, outside "
                        f"its {width}x{height} pixels; corners are inclusive and count from 0."
                    )


def _mask_files(segment: Segment) -> list[Path]:
    folder = segment.root / segment.masks
    if not segment.masks or not folder.is_dir():
        raise VideoError(
            f"The clip {segment.name} has no folder of masks"
            + (f" at {folder}" if segment.masks else " in its manifest")
            + "; name one in the column 'masks'."
        )
    return _listed(folder, folder.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _listed(folder: Path, changed: int) -> list[Path]:
    return image_files(folder)


def _decode(file: Path, num_classes: int) -> npt.NDArray[np.uint8]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise VideoError(f"{file} can't be read ({error.strerror}); copy it again.") from error
    picture = None
    if data and not is_cut_off(data):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8:
        raise VideoError(f"{file} is not a whole picture of 8 bits; copy it again.")
    mask: npt.NDArray[np.uint8] = picture
    if mask.ndim == 3:
        mask = picture[..., 0]
        if (picture[..., :3] != mask[..., None]).any():
            raise VideoError(f"{file} has colours; a mask is grey, its values are classes.")
    if num_classes == 2:
        return (mask > 127).astype(np.uint8)
    wrong = (mask >= num_classes) & (mask != IGNORED)
    if wrong.any():
        raise VideoError(
            f"{file} has the value {int(mask[wrong][0])}, but there are {num_classes} classes, 0 "
            f"to {num_classes - 1}, besides {IGNORED} for pixels that don't count; correct it."
        )
    return mask


Row = tuple[tuple[float, float, float, float], str]


def _class_number(segment: Segment, label: str, classes: Sequence[str]) -> int:
    if len(classes) == 1:
        return 0
    if label not in classes:
        raise ManifestError(
            f"{segment.root / segment.boxes} has the label '{label}', which is none of the classes "
            f"{', '.join(classes)}; correct it or name it among the classes."
        )
    return list(classes).index(label)


def _box_table(segment: Segment) -> Mapping[int, Sequence[Row]]:
    """The rows of a clip's file, by frame."""
    file = segment.root / segment.boxes
    if not segment.boxes or not file.is_file():
        raise ManifestError(
            f"The clip {segment.name} has no table of boxes"
            + (f" at {file}" if segment.boxes else " in its manifest")
            + "; name one in the column 'boxes'."
        )
    tables = _read_table(file, file.stat().st_mtime_ns)
    return tables.get(None, {}) or tables.get(segment.path, {})


@functools.lru_cache(maxsize=64)
def _read_table(file: Path, changed: int) -> dict[str | None, dict[int, list[Row]]]:
    """Path (or `None` for a table of one file) -> frame -> rows."""
    tables: dict[str | None, dict[int, list[Row]]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            missing = set(BOX_COLUMNS) - set(reader.fieldnames or [])
            if missing:
                raise ManifestError(
                    f"{file} has no column {', '.join(sorted(missing))}; its first line names "
                    f"{','.join(BOX_COLUMNS)} and, if need be, path and label."
                )
            for row in reader:
                frame, corners = _numbers(f"{file}, line {reader.line_num}", row)
                rows = tables.setdefault(row.get("path"), {}).setdefault(frame, [])
                rows.append((corners, row.get("label") or ""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{file} can't be read as a table ({error}); mend it.") from error
    return tables


def _numbers(where: str, row: Mapping[str, str]) -> tuple[int, tuple[float, float, float, float]]:
    """A row's frame and its corners at the edges of pixels."""
    try:
        frame = int(row["frame"])
        left, top, right, bottom = (float(row[name]) for name in BOX_COLUMNS[1:])
    except (TypeError, ValueError) as error:
        raise ManifestError(
            f"{where}: a box needs a whole frame number and four numbers ({error}); mend the row."
        ) from error
    if frame < 0 or not (0 <= left <= right and 0 <= top <= bottom):
        raise ManifestError(
            f"{where}: frame {frame} with x1 {left:g}, y1 {top:g}, x2 {right:g}, y2 {bottom:g} is "
            "no box; frames and corners count from 0, and x1 <= x2, y1 <= y2."
        )
    return frame, (left, top, right + 1, bottom + 1)
