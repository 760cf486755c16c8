"""CT volumes as clips, from files that nibabel and pydicom write."""

import gzip
import sys

import nibabel
import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from endofm.cli import main
from endofm.data.manifests.folder import manifest_from_folder
from endofm.data.manifests.manifest import Segment
from endofm.data.video import open_video, read_segment
from endofm.data.video.volume import scaled, windowed
from endofm.errors import ConfigError, VideoError
from endofm.models.registry import create_model
from endofm.tasks.embedding.videos import embed
from tests.make import numbered_frame, write_frames
from tests.volumes import ct_slice, numbered_volume, write_nifti, write_series, write_slice

UNITS = numbered_volume()


def grey_of(units) -> np.ndarray:
    """What a frame shows: -1000 is 0, 400 is 255."""
    return np.rint((np.clip(units, -1000.0, 400.0) + 1000) * 255 / 1400).astype(np.uint8)


def units_of(path) -> np.ndarray:
    with open_video(path) as volume:
        return np.stack([volume.slice_of(number) for number in range(len(volume))])


def refused(path) -> str:
    """The sentence, whether it comes at opening or at reading."""
    with pytest.raises(VideoError) as told, open_video(path) as volume:
        volume.read([0])
    message = str(told.value)
    assert message.count("\n") == 0 and message.endswith(".")
    return message


# What is read


def test_the_window_spreads_from_air_to_bone_over_eight_bits():
    units = np.array([[-3000, -1000, -300, 400, 2000]], np.float32)
    assert windowed(units).tolist() == [[0, 0, 127.5, 255, 255]]
    assert np.diff(windowed(np.array([[0, 1400 / 255]], np.float32))) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_nifti_volume_is_a_clip_of_its_slices(suffix, tmp_path):
    path = write_nifti(tmp_path / f"v{suffix}", UNITS)
    with open_video(path) as volume:
        assert len(volume) == 6 and volume.size == (8, 10) and np.isnan(volume.fps)
        assert volume.spacing == (2.0, 1.0, 1.0)
        frames = volume.read([5, 0, 0])
        small = volume.read([0], (4, 5))
    assert frames.dtype == np.uint8 and frames.shape == (3, 8, 10, 3)
    assert np.array_equal(frames[..., 0], grey_of(UNITS[[5, 0, 0]]))
    assert np.array_equal(frames[..., 0], frames[..., 2])
    assert small.shape == (1, 4, 5, 3)
    found, length = read_segment(Segment(tmp_path, path.name, 2, 5), lambda length: [0, length - 1])
    assert length == 3 and np.array_equal(found[..., 1], grey_of(UNITS[[2, 4]]))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI", "PSR", "AIL", "SLA"])
def test_whatever_axes_are_stored_frames_run_from_the_feet_with_the_front_up(axes, tmp_path):
    path = write_nifti(tmp_path / "v.nii.gz", UNITS, spacing=(3.0, 1.0, 1.0), axes=axes)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == tuple(axes)
    assert np.array_equal(units_of(path), UNITS)
    with open_video(path) as volume:
        assert volume.spacing == pytest.approx((3.0, 1.0, 1.0))


def test_a_tilted_volume_is_turned_to_the_nearest_axes(tmp_path):
    path = write_nifti(tmp_path / "v.nii", UNITS, axes="AIL", tilt=np.deg2rad(20))
    assert np.array_equal(units_of(path), UNITS)


def test_slope_and_intercept_of_a_nifti_file_are_applied(tmp_path):
    path = write_nifti(tmp_path / "v.nii", UNITS + 1024, dtype=np.uint16)
    header = bytearray(path.read_bytes())
    header[112:120] = np.array([1, -1024], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(header)
    assert np.array_equal(units_of(path), UNITS)


def test_a_series_is_ordered_by_position_and_its_units_are_rescaled(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("a note")
    assert np.array_equal(units_of(folder), UNITS)
    with open_video(folder, "decord") as volume:
        assert len(volume) == 6 and volume.spacing == (2.0, 1.0, 1.0)
        assert np.array_equal(volume.read([3])[0, ..., 0], grey_of(UNITS[3]))
    for file in folder.glob("*.dcm"):  # scanners often give no suffix
        file.rename(file.with_suffix("" if file.stem[-1] in "123" else ".840.1"))
    assert np.array_equal(units_of(folder), UNITS)


@pytest.mark.parametrize(
    ("directions", "planes", "step"),
    [
        ((0, 1, 0, 0, 0, -1), UNITS[::-1].transpose(2, 0, 1), (2, 0, 0)),  # sagittal, head up
        ((1, 0, 0, 0, 0, -1), UNITS[::-1].transpose(1, 0, 2), (0, 2, 0)),  # coronal
        ((-1, 0, 0, 0, -1, 0), UNITS[:, ::-1, ::-1], (0, 0, 2)),  # turned by half a circle
    ],
)
def test_series_along_other_axes_give_axial_frames(directions, planes, step, tmp_path):
    for number, plane in enumerate(planes):
        position = [number * value for value in step]
        write_slice(tmp_path / f"{number}.dcm", ct_slice(plane, position, directions))
    assert np.array_equal(units_of(tmp_path), UNITS)


def test_both_formats_give_the_same_frames(tmp_path):
    series, file = write_series(tmp_path / "ct", UNITS), write_nifti(tmp_path / "v.nii", UNITS)
    with open_video(series) as left, open_video(file) as right:
        assert np.array_equal(left.read(range(6)), right.read(range(6)))


def test_pixels_that_are_not_square_become_squares_of_the_finer_side(tmp_path):
    units = np.full((4, 8, 6), -800, np.int16)
    units[:, 2:4, 2:4] = 100  # 2 rows of 1 mm, 2 columns of 3 mm
    with open_video(write_nifti(tmp_path / "v.nii", units, spacing=(5, 1, 3))) as volume:
        assert volume.size == (8, 18) and len(volume) == 4  # slices stay as they are
        frame = volume.read([1])[0, ..., 0]
    assert (frame[3] > 128).sum() == 6 and (frame[:, 9] > 128).sum() == 2


def test_shrinking_averages_and_growing_interpolates():
    stripes = np.tile(np.array([0, 100], np.float32), (2, 4))
    assert np.allclose(scaled(stripes, (2, 4)), 50)
    assert np.allclose(scaled(stripes[:, :2], (4, 2)), [[0, 100]] * 4)


# Manifests and commands


def test_volumes_are_found_below_a_folder_one_clip_each(tmp_path, capsys):
    write_nifti(tmp_path / "a/v.nii.gz", UNITS)
    write_series(tmp_path / "b/ct", UNITS)
    write_series(tmp_path / "c/ct", UNITS, lambda number, one: None if number == 3 else one)
    write_frames(tmp_path / "d", map(numbered_frame, range(3)))
    segments, left_out = manifest_from_folder(tmp_path)
    rows = [(segment.path, segment.num_frames) for segment in segments]
    assert rows == [("a/v.nii.gz", 6), ("b/ct", 6), ("d", 3)]
    assert len(left_out) == 1 and "lacks slices" in left_out[0]
    main(["manifest", str(tmp_path), str(tmp_path / "m.csv")])
    capsys.readouterr()
    main(["corpus", "check", str(tmp_path / "m.csv")])
    assert "of 3 clips" in capsys.readouterr().out


def test_a_volume_is_embedded_as_runs_of_slices(tmp_path):
    model = create_model("timesformer_mini", depth=1, patch_pixels=8, image_pixels=16, num_frames=2)
    found = embed(model.eval(), write_nifti(tmp_path / "v.nii", UNITS))
    assert found.features.shape == (3, 128) and np.isnan(found.start_seconds).all()


# Bad input, by nibabel


def test_a_volume_without_orientation_is_refused(tmp_path):
    path = write_nifti(tmp_path / "v.nii", UNITS)
    image = nibabel.load(path)
    bare = nibabel.Nifti1Image(np.asarray(image.dataobj), None, None)
    nibabel.save(bare, tmp_path / "bare.nii")
    told = refused(tmp_path / "bare.nii")
    assert "bare.nii does not tell its orientation (qform and sform codes are 0)" in told


def test_a_volume_over_time_is_refused_and_one_volume_of_it_is_not(tmp_path):
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    volume = UNITS.transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(np.stack([volume] * 2, -1), affine), tmp_path / "t.nii")
    assert "shape [10, 8, 6, 2], but a volume has three axes" in refused(tmp_path / "t.nii")
    nibabel.save(nibabel.Nifti1Image(volume[..., None], affine), tmp_path / "one.nii")
    assert np.array_equal(units_of(tmp_path / "one.nii"), UNITS)
    nibabel.save(nibabel.Nifti1Image(volume[..., 0], affine), tmp_path / "flat.nii")
    assert "shape [10, 8]" in refused(tmp_path / "flat.nii")


def test_colours_in_a_nifti_file_are_refused(tmp_path):
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), kind), np.eye(4)), tmp_path / "v.nii")
    assert "holds colours, not Hounsfield units" in refused(tmp_path / "v.nii")


@pytest.mark.parametrize(
    "values",
    [
        UNITS + 1024,  # no intercept
        np.where(UNITS < -700, -2000, UNITS + 1024),  # the same, with a scanner's padding
        grey_of(UNITS),  # windowed already
        np.linspace(0, 1, UNITS.size).reshape(UNITS.shape),
    ],
)
def test_values_that_are_not_hounsfield_units_are_refused(values, tmp_path):
    path = write_nifti(tmp_path / "v.nii", values, dtype=np.float32)
    assert "hardly any like air" in refused(path)
    for index in (0, 3, 5):
        with open_video(path) as volume, pytest.raises(VideoError, match="not Hounsfield units"):
            volume.read([index])


def test_voxels_that_are_no_numbers_are_refused(tmp_path):
    values = UNITS.astype(np.float32)
    values[0, 0, 0] = np.nan
    assert "no numbers" in refused(write_nifti(tmp_path / "v.nii", values, dtype=np.float32))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.97])
def test_a_nifti_file_that_is_cut_off_is_refused(share, suffix, tmp_path):
    noise = np.random.default_rng(0).integers(-900, 0, (8, 30, 30))
    path = write_nifti(tmp_path / f"v{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    told = refused(path)
    assert "is not a whole NIfTI file" in told or "is empty" in told


def test_what_is_no_nifti_file_at_all_is_refused(tmp_path):
    (tmp_path / "v.nii").write_bytes(b"something else" * 100)
    assert "is not a whole NIfTI file" in refused(tmp_path / "v.nii")
    (tmp_path / "w.nii.gz").write_bytes(gzip.compress(b"something else" * 100))
    assert "is not a whole NIfTI file" in refused(tmp_path / "w.nii.gz")
    assert "does not exist" in refused(tmp_path / "absent.nii")


def test_axes_that_span_no_space_are_refused(tmp_path):
    affine = np.diag([1.0, 1.0, 0.0, 1.0])
    image = nibabel.Nifti1Image(UNITS, None)
    image.header.set_sform(affine, code=1)
    nibabel.save(image, tmp_path / "v.nii")
    assert "span no space" in refused(tmp_path / "v.nii")


# Bad input, by pydicom


def test_a_missing_slice_is_refused_with_its_neighbours(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS, lambda n, one: None if n == 2 else one)
    told = refused(folder)
    assert (
        "lacks slices between IM0005.dcm and IM0003.dcm: they are 4 mm apart, the others 2" in told
    )


def test_a_repeated_slice_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    write_slice(folder / "copy.dcm", ct_slice(UNITS[2], (0, 0, 4)))
    assert "the same slice twice (IM0004.dcm and copy.dcm)" in refused(folder)


def test_slices_of_two_reconstructions_are_refused(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    write_slice(folder / "other.dcm", ct_slice(UNITS[2], (0, 0, 4.5)))
    assert "uneven slices: IM0004.dcm and other.dcm are 0.5 mm apart" in refused(folder)


def test_several_series_in_a_folder_are_refused(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    write_slice(folder / "scout.dcm", ct_slice(UNITS[0], (0, 0, 0), series="1.2.9"))
    assert "holds 2 series (1.2.3 of 6, 1.2.9 of 1 files)" in refused(folder)


def change(**values):
    """Alters the slice numbered 1; `None` deletes."""

    def alter(number, one):
        for name, value in values.items() if number == 1 else ():
            if value is None:
                delattr(one, name)
            else:
                setattr(one, name, value)
        return one

    return alter


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"RescaleIntercept": None}, "has no rescale intercept"),
        ({"RescaleSlope": None}, "has no rescale slope, so its values are not Hounsfield units"),
        ({"ImageOrientationPatient": None}, "tells no orientation"),
        ({"ImagePositionPatient": None}, "tells no position"),
        ({"PixelSpacing": None}, "tells no size of its pixels"),
        ({"Modality": "MR"}, "is of the modality MR; only CT has"),
        ({"NumberOfFrames": 30}, "holds 30 slices in one file; convert it to NIfTI"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "is turned otherwise than"),
        ({"PixelSpacing": [2, 2]}, "has pixels otherwise than"),
        ({"ImagePositionPatient": [0, 0]}, "has 2 numbers in ImagePositionPatient in place of 3"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "is a picture in RGB, not a slice of a CT",
        ),
    ],
)
def test_a_slice_that_does_not_fit_is_named(values, says, tmp_path):
    told = refused(write_series(tmp_path / "ct", UNITS, change(**values)))
    assert "IM0005.dcm" in told and says in told


def test_a_series_without_air_is_not_in_hounsfield_units(tmp_path):
    def unscaled(number, one):
        one.RescaleIntercept = 0
        return one

    assert "hardly any like air" in refused(write_series(tmp_path / "ct", UNITS, unscaled))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_a_dicom_file_that_is_cut_off_is_named(share, tmp_path):
    folder = write_series(tmp_path / "ct", numbered_volume((6, 32, 32)))
    cut = folder / "IM0003.dcm"
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * share)])
    assert "IM0003.dcm" in refused(folder)


def test_pixels_in_a_coding_that_nothing_here_decodes_are_told(tmp_path):
    def coded(number, one):
        one.file_meta.TransferSyntaxUID = JPEG2000Lossless
        one["PixelData"].is_undefined_length = True
        from pydicom.encaps import encapsulate

        one.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60])
        return one

    assert "can't be read as a DICOM slice" in refused(write_series(tmp_path / "ct", UNITS, coded))


def test_one_file_of_a_series_is_refused_with_a_way_out(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    assert "is one file of a DICOM series; give the folder" in refused(folder / "IM0001.dcm")


def test_pictures_beside_dicom_files_are_refused(tmp_path):
    folder = write_series(tmp_path / "ct", UNITS)
    write_frames(folder, [numbered_frame(0)], "preview_{}.png")
    assert "holds DICOM files and pictures (preview_0.png)" in refused(folder)
    _, left_out = manifest_from_folder(tmp_path)
    assert len(left_out) == 1 and "preview_0.png" in left_out[0]


@pytest.mark.parametrize("package", ["nibabel", "pydicom"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    package, tmp_path, monkeypatch
):
    paths = {
        "nibabel": write_nifti(tmp_path / "v.nii", UNITS),
        "pydicom": write_series(tmp_path / "ct", UNITS),
    }
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs {package}.*pip install 'endofm\[volumes\]'"):
        open_video(paths[package])
