"""Small CT volumes as NIfTI files and DICOM series, written by nibabel and pydicom."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def numbered_volume(shape=(6, 8, 10)) -> np.ndarray:
    """Hounsfield units [slices, rows, columns] that tell their place; all are air or lung."""
    depth, row, column = np.indices(shape)
    return (-1000 + 60 * depth + 7 * row + column).astype(np.int16)


def write_nifti(
    path: Path,
    units: np.ndarray,
    spacing=(2.0, 1.0, 1.0),
    axes: str = "LPS",
    tilt: float = 0.0,
    dtype=np.int16,
) -> Path:
    """Units from the feet, the front and the right on; stored along other axes if asked for.

    `spacing` is of slices, rows and columns in mm; `axes` are nibabel's codes of the stored ones.
    """
    to_head, to_back, to_left = spacing
    affine = np.diag([-to_left, -to_back, to_head, 1.0])  # NIfTI counts to the right and front
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]]) @ affine
    image = nibabel.Nifti1Image(units.transpose(2, 1, 0).astype(dtype), affine)
    codes = nibabel.orientations.axcodes2ornt
    if axes != "LPS":
        turn = nibabel.orientations.ornt_transform(codes("LPS"), codes(tuple(axes)))
        image = image.as_reoriented(turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def ct_slice(units: np.ndarray, position, directions=(1, 0, 0, 0, 1, 0), series="1.2.3") -> Dataset:
    """One slice: stored as unsigned numbers with an intercept of -1024."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.SOPClassUID, one.Modality, one.SeriesInstanceUID = CTImageStorage, "CT", series
    one.ImageOrientationPatient = list(map(float, directions))
    one.ImagePositionPatient = [float(value) for value in position]
    one.PixelSpacing, one.SliceThickness = [1.0, 1.0], 2.0
    one.Rows, one.Columns = units.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (units.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    return one


def write_slice(path: Path, one: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, one, enforce_file_format=True)
    return path


def write_series(folder: Path, units: np.ndarray, change=lambda number, one: one) -> Path:
    """A slice a file, 2 mm apart; `change` may alter each, or leave it out with `None`.

    Names run from the head down, so that their order is not that of the positions.
    """
    for number, plane in enumerate(units):
        one = change(number, ct_slice(plane, (0, 0, 2 * number)))
        if one is not None:
            write_slice(folder / f"IM{len(units) - number:04d}.dcm", one)
    return folder
