from dataclasses import replace

import cv2
import numpy as np
import pytest

from endofm.data.labelled.rows import check_files, check_rows, load_rows
from endofm.data.labelled.samples import LabelledConfig
from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.errors import ConfigError, ManifestError, RunError, VideoError
from tests.labelled import write_labelled


@pytest.fixture
def manifest(tmp_path):
    return write_labelled(tmp_path, 8)


def change(manifest, number, **changes):
    rows = read_manifest(manifest)
    rows[number] = replace(rows[number], **changes)
    write_manifest(manifest, rows)


def checked(manifest, kind="classification", legacy=False, **options):
    config = LabelledConfig(manifests=(manifest,), label="polyp", val_share=0.34, **options)
    splits, _ = load_rows(config, kind, legacy)
    check_files(splits, config.max_broken_share)
    return splits, check_rows(splits, config, kind)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("classification", ("normal", "polyp")),
        ("segmentation", ("background", "object")),
        ("detection", ("object",)),
    ],
)
def test_rows_with_what_the_task_needs_pass(manifest, kind, classes):
    splits, found = checked(manifest, kind)
    assert found == classes
    assert {row.group for row in splits.val} | {row.group for row in splits.train}
    assert len(splits.all) == 8


def test_legacy_rows_may_share_groups_and_the_test_chooses(manifest):
    rows = read_manifest(manifest)
    change(manifest, 6, group=rows[0].group)
    with pytest.raises(ManifestError, match="in both 'train' and 'test'"):
        checked(manifest)
    splits, _ = checked(manifest, legacy=True)
    assert splits.val == splits.test and "legacy" in splits.cut


def test_rows_without_masks_or_boxes_are_named(manifest):
    change(manifest, 2, masks="", boxes="")
    for kind, column in (("segmentation", "masks"), ("video_detection", "boxes")):
        with pytest.raises(ManifestError, match=rf"1 of 8 rows have nothing in .*'{column}'.*_02"):
            checked(manifest, kind)


def test_masks_of_another_size_or_number_are_refused_before_the_start(manifest):
    file = manifest.parent / "masks" / "clip_03" / "0.png"
    cv2.imwrite(str(file), np.zeros((9, 9), np.uint8))
    with pytest.raises(VideoError, match="9x9, but the frames of clip_03"):
        checked(manifest, "segmentation")
    file.unlink()
    with pytest.raises(VideoError, match=r"3 masks, but .* 4 frames"):
        checked(manifest, "segmentation")


def test_a_class_that_no_training_row_shows_is_refused(manifest):
    with pytest.raises(ManifestError, match=r"No training row shows ulcer in its boxes"):
        table = manifest.parent / "boxes.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join([lines[0] + ",label", *(f"{x},polyp" for x in lines[1:])]))
        checked(manifest, "detection", classes=("polyp", "ulcer"))
    for number in range(0, 8, 2):
        for file in (manifest.parent / "masks" / f"clip_{number:02d}").iterdir():
            cv2.imwrite(str(file), np.zeros((40, 48), np.uint8))
    with pytest.raises(ManifestError, match="No training row shows object in its masks"):
        checked(manifest, "segmentation")


def test_a_box_outside_the_frame_is_refused_before_the_start(manifest):
    with (manifest.parent / "boxes.csv").open("a") as file:
        file.write("clip_01,0,40,3,48,9\n")
    with pytest.raises(ManifestError, match="outside"):
        checked(manifest, "detection")


def test_missing_files_stop_the_run_where_they_would_be_judged(manifest):
    change(manifest, 6, path="absent")
    with pytest.raises(RunError, match=r"1 of .* rows can't be judged"):
        checked(manifest)
    manifest = write_labelled(manifest.parent / "more", 8)
    change(manifest, 0, path="absent", split="train")
    with pytest.raises(RunError, match=r"can't be used, more than|can't be judged"):
        checked(manifest)


def test_two_manifests_share_no_file_name(manifest, tmp_path):
    other = write_labelled(tmp_path / "other", 2)
    config = LabelledConfig(manifests=(manifest, other), label="polyp")
    with pytest.raises(ManifestError, match="Two manifests have a file clip_00"):
        load_rows(config, "classification", False)
    with pytest.raises(ConfigError, match=r"data\.manifests is empty"):
        load_rows(LabelledConfig(), "classification", False)


def test_a_label_is_named(manifest):
    config = LabelledConfig(manifests=(manifest,), val_share=0.34)
    splits, _ = load_rows(config, "classification", False)
    with pytest.raises(ConfigError, match=r"data\.label is empty"):
        check_rows(splits, config, "classification")
