import cv2
import numpy as np
import pytest

from endofm.data.checks.fov import Field, find_field
from endofm.data.corpus.view import what_is_shown
from endofm.data.video import open_video
from tests.shared import shared_folder


def frames_of(path, count=24):
    with open_video(path) as video:
        spread = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int)
        return video.read(sorted(set(spread.tolist())))


def endoscopic(height=240, width=320, radius=100, center=(120, 180), count=5):
    """Noise in a disc on black, with text beside it."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:height, :width]
    disc = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2
    frames = rng.integers(60, 220, (count, height, width, 3), np.uint8) * disc[..., None]
    for frame in frames:
        cv2.putText(frame, "12:30 A. B.", (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255,) * 3)
    return frames


def test_the_field_is_found_and_text_beside_it_is_not():
    field = find_field(endoscopic())
    found = np.array([field.left, field.top, field.right, field.bottom])
    # Edges of a disc hold little of it, so a few pixels of them are given up.
    assert np.abs(found - [80, 20, 280, 220]).max() <= 12
    assert field.crop(endoscopic()[0]).shape[:2] == field.size


def test_without_ground_the_whole_frame_is_kept():
    whole = Field(0, 0, 320, 240)
    rng = np.random.default_rng(0)
    assert find_field(rng.integers(60, 220, (3, 240, 320, 3), np.uint8)) == whole
    assert find_field(np.zeros((3, 240, 320, 3), np.uint8)) == whole
    spot = np.zeros((1, 240, 320, 3), np.uint8)
    spot[:, 100:120, 100:120] = 200
    assert find_field(spot) == whole


def test_a_flash_over_the_ground_changes_nothing():
    frames = endoscopic(count=12)
    expected = find_field(frames)
    frames[3] = 255
    assert find_field(frames) == expected


# Read from the pictures by eye, to a few pixels: left, top, right, bottom.
REAL = {
    "cvc_clinicdb/images/seq01": (42, 13, 360, 281),
    "cvc_clinicdb/images/seq02": (39, 24, 342, 281),
    "cvc_clinicdb/images/seq05": (39, 24, 344, 281),
    "lap_intermountain/00001-21711": (115, 0, 1150, 720),
    "lap_intermountain/00002-22975": (190, 0, 1120, 720),
    "lap_intermountain/00004-22977": (90, 0, 1190, 720),
    "lap_intermountain/00007-23156": (180, 0, 1100, 720),
    "laparoscopy_rvim/endo.mp4": (50, 0, 1195, 720),
}


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(REAL))
def test_the_field_of_real_videos_is_where_one_sees_it(name):
    field = find_field(frames_of(shared_folder("real", *name.split("/"))))
    found = np.array([field.left, field.top, field.right, field.bottom])
    tolerance = 20 if "lap" in name else 6
    assert np.abs(found - REAL[name]).max() <= tolerance


@pytest.mark.real
def test_no_real_frame_is_taken_for_blank_or_outside():
    folder = shared_folder("real")
    files = sorted(folder.glob("cvc_clinicdb/images/*/*.png"))[::8]
    files += sorted(folder.glob("kvasir_seg/images/*.jpg"))[::8]
    files += sorted(folder.glob("lap_intermountain/*/*.jpg"))[::8]
    pictures = [cv2.imread(str(file))[..., ::-1] for file in files]
    assert len(files) > 60 and {what_is_shown(picture) for picture in pictures} == {"body"}
