"""NIfTI files (.nii, .nii.gz) as clips, read by nibabel."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from endofm.data.video.base import check_file
from endofm.data.video.volume import Floats, VolumeReader, needs, plane_of
from endofm.errors import VideoError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
RIGHT_FRONT_TO_LEFT_BACK = np.diag([-1.0, -1.0, 1.0])
"""NIfTI counts to the right and front, DICOM, and we, to the left and back."""


def is_nifti(path: Path) -> bool:
    """Whether a path is named like a NIfTI file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


class NiftiReader(VolumeReader):
    """A CT volume in a NIfTI file.

    An uncompressed file is read slice by slice, a compressed one whole. Raises `VideoError` for
    what is no volume of one channel with an orientation, `ConfigError` without nibabel.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        try:
            import nibabel
            from nibabel.filebasedimages import ImageFileError
            from nibabel.spatialimages import HeaderDataError
        except ImportError as error:
            raise needs("nibabel", path) from error
        try:
            image: Any = nibabel.load(path)
        except (
            ImageFileError,
            HeaderDataError,
            OSError,
            EOFError,
            ValueError,
            zlib.error,
        ) as error:
            raise _broken(path, error) from error
        _check_header(path, image.header)
        steps = RIGHT_FRONT_TO_LEFT_BACK @ np.asarray(image.affine, np.float64)[:3, :3]
        self._data = image.dataobj
        self._stored: Any = None
        super().__init__(path, tuple(image.shape[:3]), steps)

    def close(self) -> None:
        """Give the file back."""
        super().close()
        self._data = self._stored = None

    def _plane(self, axis: int, index: int) -> Floats:
        if self._stored is None:
            try:
                self._stored = self._data.get_unscaled()  # a map of the file, if not compressed
            except (OSError, EOFError, ValueError, zlib.error) as error:
                raise _broken(self.path, error) from error
            self._stored = self._stored.reshape(self._shape)
        plane = plane_of(self._stored, axis, index).astype(np.float32)
        slope, intercept = np.float32(self._data.slope), np.float32(self._data.inter)
        return np.asarray(plane * slope + intercept, np.float32)


def _check_header(path: Path, header: Any) -> None:
    """Raise `VideoError` for what is no oriented volume of one channel."""
    shape, kind = header.get_data_shape(), header.get_data_dtype()
    if kind.names or kind.kind == "c":
        raise VideoError(
            f"{path} holds {'colours' if kind.names else 'complex numbers'}, not Hounsfield units; "
            "convert the CT itself."
        )
    if len(shape) < 3 or any(number != 1 for number in shape[3:]):
        raise VideoError(
            f"{path} has the shape {list(shape)}, but a volume has three axes; save each volume of "
            "a series over time as a file of its own."
        )
    if not (header["qform_code"] or header["sform_code"]):
        raise VideoError(
            f"{path} does not tell its orientation (qform and sform codes are 0); convert the "
            "original again, or write the affine that is right for it."
        )


def _broken(path: Path, error: Exception) -> VideoError:
    told = " ".join(str(error).replace(f'"{path}"', "it").split())
    return VideoError(f"{path} is not a whole NIfTI file ({told}); copy it again.")
