import csv
import json

import numpy as np
import pytest

from endofm.report.cases import Case, Shown, case_sheet, rank_cases, result_page
from endofm.report.result_folders import read_result


def write(folder, header, rows, task="segmentation", classes=("background", "polyp"), **more):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    figures = {"dice": {"value": 0.5, "low": 0.4, "high": 0.6, "reason": ""},
               "hd95": {"value": None, "reason": "no frame defines it"},
               "recall/polyp": {"value": 0.1}}  # fmt: skip
    told = {"task": task, "classes": list(classes), "seed": 3, "metrics": figures} | more
    (folder / "metrics.json").write_text(json.dumps(told))
    return read_result(folder).seeds[0]


MASKS = ("sequence", "frame", "group", "class", "true_pixels", "told_pixels", "shared_pixels",
         "dice", "iou", "hd95")  # fmt: skip


def mask_row(sequence, frame, true, told, shared):
    return (sequence, frame, sequence, "polyp", true, told, shared, 0, 0, "nan")


def test_frames_are_ranked_and_sequences_take_turns(tmp_path):
    rows = [mask_row("bad", frame, 100, 100, frame) for frame in range(6)]
    rows += [mask_row("good", frame, 100, 100, 90 + frame) for frame in range(6)]
    rows += [mask_row("empty", frame, 0, 0, 0) for frame in range(6)]
    worst, best = rank_cases(write(tmp_path, MASKS, rows), 3)
    assert [(case.sequence, case.frame) for case in worst] == [("bad", 0), ("bad", 1), ("good", 0)]
    assert [(case.sequence, case.frame) for case in best] == [("good", 5), ("good", 4), ("bad", 5)]
    assert best[0].note == "frame 5, Dice 0.95" and best[0].score == 0.95


def test_a_few_cases_are_never_worst_and_best_at_once(tmp_path):
    rows = [mask_row("a", frame, 100, 100, 10 * frame) for frame in range(3)]
    worst, best = rank_cases(write(tmp_path, MASKS, rows), 6)
    assert len(worst) == 1 and len(best) == 1 and worst != best
    result = write(tmp_path, MASKS, [mask_row("a", 0, 0, 0, 0)])
    assert rank_cases(result, 6) == ([], [])


def test_boxes_and_classes_are_ranked(tmp_path):
    header = ("sequence", "frame", "group", "true_boxes", "told_boxes", "matched", "best_score")
    rows = [("a", 0, "a", 1, 1, 1, 0.9), ("a", 1, "a", 0, 0, 0, ""), ("a", 2, "a", 1, 2, 0, 0.8)]
    worst, best = rank_cases(write(tmp_path, header, rows, "detection", ("polyp",)), 2)
    assert (worst[0].frame, worst[0].note) == (2, "frame 2, 0 of 1 found, 2 wrong")
    assert (best[0].frame, best[0].score) == (0, 1)
    header = ("sample", "group", "truth", "told", "p/no", "p/yes")
    rows = [("v", "v", "yes", "no", 0.9, 0.1), ("w", "w", "no", "no", 0.8, 0.2)]
    worst, best = rank_cases(write(tmp_path, header, rows, "classification", ("no", "yes")), 2)
    assert (worst[0].sequence, worst[0].frame, worst[0].note) == ("v", None, "true yes, told no")
    assert best[0].score == 0.8
    rows = [("v", "v", "", "no;yes", 0.9, 0.1), ("w", "w", "no;yes", "no;yes", 0.8, 0.7)]
    worst, best = rank_cases(write(tmp_path, header, rows, "multi_label", ("no", "yes")), 2)
    assert worst[0].score == pytest.approx(0.1) and "true none" in worst[0].note
    assert best[0].score == pytest.approx(0.7)


def test_the_page_has_figures_pictures_and_tables(tmp_path):
    details = {"confusion": [[5, 1], [2, 7]],
               "sequences": [{"sequence": "a<b", "frames": 2, "true": 3, "values": {"f": None}}],
               "per_class": [{"label": 1, "frame_dice": 0.25, "hd95": None}]}  # fmt: skip
    chosen = {"by": "dice", "value": 0.75, "step": 12}
    broken = [{"name": "x.mp4", "reason": "cut off"}]
    result = write(tmp_path, MASKS, [mask_row("a", 0, 1, 1, 1)], details=details, chosen=chosen,
                   not_scored=broken, protocol="legacy_cvc12k")  # fmt: skip
    (tmp_path / "config.yaml").write_text("weights: none\n")
    sheet = case_sheet([np.zeros((100, 80, 3), np.uint8)] * 4)
    shown = [Shown(f"{name} cases", [Case("v<1>.mp4", 7, 0.25, "a note")], sheet)
             for name in ("Worst", "Best")]  # fmt: skip
    text = result_page(tmp_path / "report.html", result, shown).read_text()
    for part in ("0.5000", "0.4000 to 0.6000", "no frame defines it", "Worst cases", "Best cases",
                 "a&lt;b", "x.mp4", "step 12", "by dice on validation (0.7500)", "legacy_cvc12k",
                 "weights: none", "0.2500", "v&lt;1&gt;.mp4", "a note"):  # fmt: skip
        assert part in text, part
    assert "recall/polyp" not in text and "<td>polyp</td>" not in text
    assert text.count("<img") == 2 and text.index("Worst cases") < text.index("Best cases")
