"""Folders with the DICOM files of one CT series as clips, read by pydicom."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from endofm.data.video.frames import IMAGE_SUFFIXES
from endofm.data.video.volume import Floats, Matrix, VolumeReader, needs, plane_of
from endofm.errors import VideoError

DICOM_SUFFIXES = frozenset({".dcm", ".ima", ".dicom"})
MOST_UNEVEN = 0.5
"""By what share of the usual distance two slices may be nearer or further apart."""
_TOLERANCE = 1e-3  # of direction cosines and millimetres that are to be equal
_NEEDED = {
    "ImageOrientationPatient": "tells no orientation",
    "ImagePositionPatient": "tells no position",
    "PixelSpacing": "tells no size of its pixels",
    "RescaleSlope": "has no rescale slope, so its values are not Hounsfield units",
    "RescaleIntercept": "has no rescale intercept, so its values are not Hounsfield units",
}


class DicomReader(VolumeReader):
    """A CT series, one slice a file, in the order of their positions; file names don't matter.

    Of an axial series only the slices asked for are decoded. Raises `VideoError` for what is not
    one whole series of CT slices, `ConfigError` without pydicom.
    """

    def __init__(self, path: Path) -> None:
        slices = [_header(file) for file in series_files(path)]
        _check_one_series(path, slices)
        across, down = _directions(slices[0])
        normal = np.cross(across, down)
        along = [float(normal @ _numbers(one, "ImagePositionPatient", 3)) for one in slices]
        self._slices = [slices[place] for place in np.argsort(along, kind="stable")]
        distance = _distance(path, self._slices, sorted(along))
        rows, columns = _numbers(slices[0], "PixelSpacing", 2)
        steps = np.stack([normal * distance, down * rows, across * columns], axis=1)
        self._all: Floats | None = None
        size = int(slices[0].Rows), int(slices[0].Columns)
        super().__init__(path, (len(slices), *size), steps)

    def close(self) -> None:
        """Forget what was decoded; files are open only while they are read."""
        super().close()
        self._all = None

    def _plane(self, axis: int, index: int) -> Floats:
        if axis == 0:
            return _pixels(self._slices[index])
        if self._all is None:  # slices that are not axial: every frame crosses all of them
            self._all = np.stack([_pixels(one) for one in self._slices])
        return plane_of(self._all, axis, index)


def series_files(folder: Path) -> list[Path]:
    """The DICOM files that lie directly in a folder, by name; empty where there are none.

    A file is one by its suffix, or without one by its mark; `DICOMDIR` and hidden files are left
    out. Raises `VideoError` for a folder with pictures beside them, or that can't be read.
    """
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        suffixes = {file.suffix.lower() for file in files}
        if not suffixes & IMAGE_SUFFIXES:
            return [file for file in files if _is_dicom(file)]
    except OSError as error:
        raise VideoError(
            f"{error.filename or folder} can't be read ({error.strerror}); correct its permissions."
        ) from error
    if suffixes & DICOM_SUFFIXES:
        picture = next(file.name for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
        raise VideoError(
            f"{folder} holds DICOM files and pictures ({picture}); move the pictures away."
        )
    return []


def _is_dicom(file: Path) -> bool:
    """By a suffix, or where there is none (or a number: part of an identifier) by the mark that
    comes after 128 bytes of anything.
    """
    suffix = file.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    named = file.name == "DICOMDIR" or not (suffix == "" or suffix[1:].isdecimal())
    if named or not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _header(file: Path) -> Any:
    """All of a file but its pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise needs("pydicom", file) from error
    try:
        found = pydicom.dcmread(file, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise _broken(file, error) from error
    _check_slice(file, found)
    return found


def _check_slice(file: Path, found: Any) -> None:
    """Raise `VideoError` for what is no slice of a CT."""
    colours = found.get("SamplesPerPixel", 1) != 1
    if colours or found.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        raise VideoError(
            f"{file} is a picture in {found.get('PhotometricInterpretation', 'colours')}, not a "
            "slice of a CT; take it out of the folder."
        )
    if found.get("Modality") != "CT":
        raise VideoError(
            f"{file} is of the modality {found.get('Modality')}; only CT has Hounsfield units, so "
            "take it out of the folder."
        )
    if int(found.get("NumberOfFrames") or 1) > 1:
        raise VideoError(
            f"{file} holds {found.NumberOfFrames} slices in one file; convert it to NIfTI "
            "(dcm2niix does)."
        )
    for name, what in _NEEDED.items():
        if found.get(name) in (None, ""):
            raise VideoError(f"{file} {what} ({name}); export the original series again.")


def _check_one_series(path: Path, slices: Sequence[Any]) -> None:
    """Raise `VideoError` for several series, and for slices that don't belong together."""
    series = Counter(str(one.get("SeriesInstanceUID", "")) for one in slices)
    if len(series) > 1:
        told = ", ".join(f"{uid} of {number}" for uid, number in series.most_common(4))
        raise VideoError(
            f"{path} holds {len(series)} series ({told} files); give each a folder of its own."
        )
    first = slices[0]
    for one in slices[1:]:
        for name, told in (
            ("ImageOrientationPatient", "is turned"),
            ("PixelSpacing", "has pixels"),
            ("Rows", "has rows"),
            ("Columns", "has columns"),
        ):
            usual, own = (np.atleast_1d(np.asarray(s.get(name), float)) for s in (first, one))
            if usual.shape != own.shape or not np.allclose(usual, own, atol=_TOLERANCE):
                raise VideoError(
                    f"{_file(one)} {told} otherwise than {_file(first).name} ({name}); take what "
                    "is no slice of the volume, such as a scout view, out of the folder."
                )


def _directions(one: Any) -> tuple[Matrix, Matrix]:
    """Unit vectors along a row and along a column, to the patient's left, back and head."""
    numbers = _numbers(one, "ImageOrientationPatient", 6)
    across, down = numbers[:3], numbers[3:]
    lengths = [float(np.linalg.norm(vector)) for vector in (across, down)]
    if not np.allclose(lengths, 1, atol=0.01) or abs(across @ down) > 0.01:
        raise VideoError(
            f"{_file(one)} has an orientation that is none ({numbers.tolist()}); export the "
            "original series again."
        )
    return across / lengths[0], down / lengths[1]


def _distance(path: Path, slices: Sequence[Any], along: Sequence[float]) -> float:
    """Millimetres from slice to slice; raises `VideoError` for repeated and missing ones."""
    if len(slices) == 1:
        return float(slices[0].get("SliceThickness") or 1)
    gaps = np.diff(along)
    usual = float(np.median(gaps[gaps > _TOLERANCE])) if (gaps > _TOLERANCE).any() else 0.0
    for (before, after), gap in zip(pairwise(slices), gaps.tolist(), strict=True):
        names = f"{_file(before).name} and {_file(after).name}"
        if gap <= _TOLERANCE:
            raise VideoError(f"{path} has the same slice twice ({names}); delete one of them.")
        if gap > (1 + MOST_UNEVEN) * usual:
            raise VideoError(
                f"{path} lacks slices between {names}: they are {gap:g} mm apart, the others "
                f"{usual:g}; copy the series again."
            )
        if gap < (1 - MOST_UNEVEN) * usual:
            raise VideoError(
                f"{path} has uneven slices: {names} are {gap:g} mm apart, the others {usual:g}; "
                "give each reconstruction a folder of its own."
            )
    return usual


def _pixels(one: Any) -> Floats:
    """Hounsfield units [rows, columns] of a slice."""
    import pydicom

    file = _file(one)
    try:
        stored = pydicom.dcmread(file).pixel_array.astype(np.float32)
    except (AttributeError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise _broken(file, error) from error
    return np.asarray(stored * float(one.RescaleSlope) + float(one.RescaleIntercept), np.float32)


def _numbers(one: Any, name: str, count: int) -> Matrix:
    try:
        numbers = np.array([float(value) for value in one.get(name)])
    except (TypeError, ValueError) as error:
        raise _broken(_file(one), error) from error
    if numbers.shape != (count,):
        raise VideoError(
            f"{_file(one)} has {len(numbers)} numbers in {name} in place of {count}; export the "
            "original series again."
        )
    return numbers


def _file(one: Any) -> Path:
    return Path(one.filename)


def _broken(file: Path, error: Exception) -> VideoError:
    told = " ".join(str(error).split())
    return VideoError(f"{file} can't be read as a DICOM slice ({told}); copy it again.")
