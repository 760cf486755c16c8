import csv
import json

import numpy as np
import pytest

from endofm.errors import ConfigError, RunError
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.classification import Sample, score_classification
from finetune.compare import compare, differences_table, figures_table, main, to_csv, to_markdown

CLASSES = ("no", "yes")


def write_seed(folder, task, classes, header, rows, metrics, seed=0):
    folder.mkdir(parents=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    figures = {n: {"value": v, "low": None, "high": None} for n, v in metrics.items()}
    told = {"task": task, "classes": list(classes), "seed": seed, "metrics": figures}
    (folder / "metrics.json").write_text(json.dumps(told))


def write_classified(folder, skill, seeds=(0,), num=24, names="v"):
    """Videos of 8 patients; `skill` lifts the probability of the true class."""
    for seed in seeds:
        rng = np.random.default_rng([seed, round(100 * skill)])
        samples = []
        for number in range(num):
            truth = number % 2
            true = float(np.clip(0.5 + 0.3 * skill + 0.25 * rng.normal(), 0.01, 0.99))
            told = (true, 1 - true) if truth == 0 else (1 - true, true)
            samples.append(Sample(f"{names}{number}", f"p{number % 8}", truth, told))
        found = score_classification(samples, CLASSES, bootstrap=Bootstrap(0)).values
        rows = [
            (s.name, s.group, CLASSES[s.truth], CLASSES[int(np.argmax(s.probabilities))],
             *s.probabilities)
            for s in samples
        ]  # fmt: skip
        header = ("sample", "group", "truth", "told", "p/no", "p/yes")
        metrics = {name: value.value for name, value in found.items()}
        place = folder / f"seed_{seed}"
        write_seed(place, "classification", CLASSES, header, rows, metrics, seed)
    return folder


def test_results_stand_beside_each_other_and_the_better_one_is_told(tmp_path):
    weak = write_classified(tmp_path / "weak", 0.05, seeds=(0, 1, 2))
    good = write_classified(tmp_path / "good", 1.2, seeds=(0, 1, 2))
    found = compare([weak, good], bootstrap=Bootstrap(256))
    (difference,) = found.differences
    told = [[s.figures["accuracy"] for s in result.seeds] for result in found.results]
    assert difference["accuracy"].value == pytest.approx(np.mean(told[1]) - np.mean(told[0]))
    assert difference["macro_f1"].low > 0 and difference["macro_f1"].p < 0.05
    table = figures_table(found)
    assert table.columns == ["figure", "weak (3 seeds)", "good (3 seeds)"]
    row = next(row for row in table.rows if row[0] == "accuracy")
    assert row[1].startswith(f"{np.mean(told[0]):.4f} ± {np.std(told[0], ddof=1):.4f} [")
    assert not any("/" in row[0] for row in table.rows)
    other = differences_table(found)
    assert "8 groups" in other.caption and "all swaps" in other.note
    assert next(row for row in other.rows if row[0] == "accuracy")[1].startswith("+0.")


def test_figures_made_again_from_the_samples_are_those_of_the_test(tmp_path):
    one, two = (
        write_classified(tmp_path / name, skill) for name, skill in (("a", 0.3), ("b", 1.0))
    )
    found = compare([one, two], bootstrap=Bootstrap(20))
    first, second = (result.seeds[0].figures for result in found.results)
    for name in ("accuracy", "macro_f1", "macro_auc", "calibration_error", "recall/yes"):
        assert found.differences[0][name].value == pytest.approx(second[name] - first[name]), name


def test_segmentation_and_detection_are_compared_too(tmp_path):
    for number, name in enumerate("ab"):
        rows = [
            (f"s{s}", f, f"p{s}", "polyp", 100, 90 + 5 * number, 50 + 20 * number, 0, 0, "nan")
            for s in range(4) for f in range(3)
        ]  # fmt: skip
        header = ("sequence", "frame", "group", "class", "true_pixels", "told_pixels",
                  "shared_pixels", "dice", "iou", "hd95")  # fmt: skip
        dice = (100 / 190, 140 / 195)[number]
        write_seed(tmp_path / "seg" / name, "segmentation", ("background", "polyp"), header, rows,
                   {"dice": dice})  # fmt: skip
        rows = [
            (f"s{s}", f, f"p{s}", 2, 2, number + 1, 1, 1, 0.9) for s in range(4) for f in range(3)
        ]
        header = ("sequence", "frame", "group", "true_boxes", "told_boxes", "matched", "hit",
                  "astray", "best_score")  # fmt: skip
        metrics = {"map_50": 0.3, "box_f1": (number + 1) / 2}
        write_seed(tmp_path / "det" / name, "detection", ("polyp",), header, rows, metrics)
    seg = compare([tmp_path / "seg" / name for name in "ab"], bootstrap=Bootstrap(20)).differences[
        0
    ]
    assert seg["dice"].value == pytest.approx(140 / 195 - 100 / 190) and seg["dice"].p == 2 / 16
    det = compare([tmp_path / "det" / name for name in "ab"], bootstrap=Bootstrap(20))
    assert det.differences[0]["box_f1"].value == 0.5
    # COCO's figures can't be made from counts: they are shown, not tested.
    assert [row[0] for row in figures_table(det).rows] == ["map_50", "box_f1"]
    assert [row[0] for row in differences_table(det).rows] == ["box_f1"]


def test_the_program_prints_and_writes_its_tables(tmp_path, capsys):
    folders = [
        write_classified(tmp_path / name, skill) for name, skill in (("a|b", 0.3), ("c", 1.0))
    ]
    out = tmp_path / "new"
    main([*map(str, folders), "--figures", "accuracy", "macro_f1", "--resamples", "50",
          "--markdown", str(out / "t.md"), "--csv", str(out / "t.csv"),
          "--html", str(out / "t.html")])  # fmt: skip
    assert "accuracy" in capsys.readouterr().out
    text = (out / "t.md").read_text()
    assert text.count("\n| accuracy |") == 2 and "permutation" in text
    rows = list(csv.DictReader((out / "t.csv").open()))
    assert len(rows) == 6 and rows[2]["against"] == "a|b" and float(rows[2]["p"]) <= 1
    assert "macro_f1" in (out / "t.html").read_text()


# Bad input


def refuse(folders, message, error=RunError, **options):
    with pytest.raises(error, match=message):
        compare(folders, **options)


def test_tests_on_other_samples_are_refused(tmp_path):
    one = write_classified(tmp_path / "one", 1.0)
    refuse([one, write_classified(tmp_path / "two", 1.0, num=20)], r"seed_0 lacks 4, such as v20")
    refuse([one, write_classified(tmp_path / "three", 1.0, names="w")], "not tested on the same")
    other = write_classified(tmp_path / "four", 1.0)
    text = (other / "seed_0" / "samples.csv").read_text().replace("v0,p0,no", "v0,p0,yes")
    (other / "seed_0" / "samples.csv").write_text(text)
    refuse([one, other], r"differ in what is true of 1 samples, such as v0 \(p0, no against p0, ye")


def test_another_task_is_refused(tmp_path):
    one, two = (write_classified(tmp_path / name, 1.0) for name in "ab")
    file = two / "seed_0" / "metrics.json"
    file.write_text(file.read_text().replace('"no", "yes"', '"none", "yes"'))
    refuse([one, two], "only results of one task")


def test_seeds_that_none_shares_are_refused_but_can_be_shown(tmp_path):
    one = write_classified(tmp_path / "one", 1.0, seeds=(0,))
    two = write_classified(tmp_path / "two", 1.0, seeds=(3,))
    refuse([one, two], "seeds 0 and two has 3", ConfigError)
    found = compare([one, two], bootstrap=Bootstrap(0))
    assert differences_table(found) is None and figures_table(found).rows


def test_what_is_no_result_is_refused(tmp_path):
    one = write_classified(tmp_path / "one", 1.0)
    refuse([one], "at least two", ConfigError)
    refuse([one, one], "given twice", ConfigError)
    refuse([one, tmp_path / "nothing"], "is no result folder")
    unfinished = write_classified(tmp_path / "unfinished", 1.0)
    (unfinished / "seed_0" / "metrics.json").unlink()
    refuse([one, unfinished], r"is not finished \(it has no metrics.json\)")
    (tmp_path / "curve" / "labels_0.1").mkdir(parents=True)
    refuse([one, tmp_path / "curve"], "several shares.*labels_0.1")
    refuse(
        [one, write_classified(tmp_path / "b", 1.0)], "no figure f9", ConfigError, figures=["f9"]
    )


def test_csv_and_markdown_leave_out_what_is_not_defined(tmp_path):
    folders = [write_classified(tmp_path / name, 1.0) for name in "ab"]
    for folder in folders:
        file = folder / "seed_0" / "metrics.json"
        told = json.loads(file.read_text())
        told["metrics"]["macro_auc"]["value"] = None
        file.write_text(json.dumps(told))
    found = compare(folders, ["macro_auc"], Bootstrap(10))
    assert "| macro_auc | – | – |" in to_markdown([figures_table(found)])
    assert "macro_auc,a,,0,,,," in to_csv(found)
