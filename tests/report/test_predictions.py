import csv
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from endofm.data.labelled.annotations import read_boxes, read_masks
from endofm.data.manifests.manifest import Segment
from endofm.errors import ConfigError, RunError
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.detection import FrameBoxes, score_detection
from endofm.report.predictions import write_boxes, write_coco, write_masks
from tests.make import write_frames


def frame(number, true, told, scores, size=(48, 64)):
    return FrameBoxes(
        "v",
        number,
        np.array(true, float).reshape(-1, 4),
        np.zeros(len(true), int),
        np.array(told, float).reshape(-1, 4),
        np.array(scores, float),
        np.zeros(len(told), int),
        size,
    )


ONE, TWO = (4, 6, 20, 30), (30, 10, 50, 22)
FRAMES = [
    frame(0, [ONE], [TWO, ONE], [0.3, 0.9]),
    frame(1, [], [], []),
    frame(2, [ONE, TWO], [(5, 6, 21, 31)], [0.8]),
]


def test_told_boxes_can_be_the_boxes_of_a_manifest(tmp_path):
    write_boxes(tmp_path / "boxes.csv", FRAMES, ["polyp"])
    write_frames(tmp_path / "v", np.zeros((3, 48, 64, 3), np.uint8))
    found = read_boxes(Segment(tmp_path, "v", boxes="boxes.csv"), range(3), ["polyp"])
    assert found[0].corners.tolist() == [list(ONE), list(TWO)]  # the surest first
    assert len(found[1]) == 0 and found[2].corners.tolist() == [[5, 6, 21, 31]]
    rows = list(csv.DictReader((tmp_path / "boxes.csv").open()))
    assert [float(row["score"]) for row in rows] == [0.9, 0.3, 0.8]
    assert (rows[0]["path"], rows[0]["x2"], rows[0]["label"]) == ("v", "19.00", "polyp")


def test_coco_reads_its_files_and_finds_the_same(tmp_path):
    write_coco(tmp_path, FRAMES, ["polyp"])
    truth = COCO(str(tmp_path / "truth_coco.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found_coco.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = score_detection(FRAMES, ["polyp"], bootstrap=Bootstrap(0)).values
    assert evaluation.stats[1] == pytest.approx(ours["map_50"].value)
    assert evaluation.stats[0] == pytest.approx(ours["map_50_95"].value)
    assert truth.imgs[3] == {"id": 3, "file_name": "v", "frame": 2, "height": 48, "width": 64}


def test_coco_files_without_any_box_are_whole(tmp_path):
    write_coco(tmp_path, [frame(0, [], [], [])], ["polyp"])
    assert json.loads((tmp_path / "found_coco.json").read_text()) == []
    assert json.loads((tmp_path / "truth_coco.json").read_text())["annotations"] == []


def test_coco_needs_the_frames_size(tmp_path):
    with pytest.raises(ConfigError, match="v, frame 0: its size is unknown"):
        write_coco(tmp_path, [frame(0, [ONE], [], [], size=None)], ["polyp"])


@pytest.mark.parametrize("num_classes", [2, 4])
def test_told_masks_can_be_the_masks_of_a_manifest(tmp_path, num_classes):
    masks = np.random.default_rng(0).integers(0, num_classes, (12, 8, 10)).astype(np.uint8)
    assert write_masks(tmp_path / "masks", iter(masks), num_classes) == 12
    read = read_masks(Segment(tmp_path, "v", masks="masks"), range(12), num_classes)
    assert np.array_equal(read, masks)


def test_a_place_that_is_taken_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        write_boxes(tmp_path / "file" / "boxes.csv", FRAMES, ["polyp"])
