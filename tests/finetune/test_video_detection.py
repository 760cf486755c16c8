"""Detection with the help of nearby frames, from the manifest to the test's figures."""

import csv
import json

from accelerate.state import AcceleratorState

from finetune.train import finetune
from tests.labelled import small_finetune, write_labelled


def test_a_run_of_video_detection_learns_and_judges_every_frame_once(tmp_path):
    manifest = write_labelled(tmp_path / "corpus", 6, num_frames=3, splits=("train", "val"))
    config = small_finetune(
        manifest, tmp_path / "run", kind="video_detection", epochs=3, lr_per_256=0.3,
        log_every=1,
    )  # fmt: skip
    out = finetune(config) / "seed_0"
    AcceleratorState._reset_state(True)
    told = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert told["rows"]["test"]["rows"] == 2 and told["unit"] == "frames"
    assert {"map_50", "map_50_95", "box_f1"} <= set(told["metrics"])
    assert told["metrics"]["map_50"]["value"] is not None and told["not_scored"] == []
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    steps = [row for row in written if "loss" in row]
    assert len(steps) == 3 and steps[-1]["video_focal"] < steps[0]["video_focal"]
    assert len([row for row in written if "val/map_50" in row]) == 3
    with (out / "samples.csv").open(encoding="utf-8") as file:
        judged = [(row["sequence"], row["frame"]) for row in csv.DictReader(file)]
    assert sorted(judged) == [
        (name, str(frame)) for name in ("clip_04", "clip_05") for frame in range(3)
    ]
