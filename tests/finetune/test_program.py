"""The program from end to end, on a corpus and network that train in seconds."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from endofm.config import to_yaml
from endofm.data.loading.batches import Batches
from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.errors import ManifestError, RunError
from endofm.tasks.finetuning.finetuned import load_finetuned
from endofm.training.checkpoint import Checkpoints
from finetune import train
from finetune.__main__ import main
from finetune.evaluate import Evaluate, evaluate
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled

LOCK = (
    "import fcntl, sys, time; file = open(sys.argv[1], 'a');"
    "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
)
"""What another process does to hold a folder."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("corpus"), 16)


def read(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def samples(folder):
    return list(csv.DictReader((folder / "samples.csv").open(encoding="utf-8")))


def last_weights(folder):
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


def test_a_run_leaves_metrics_samples_a_model_and_says_what_it_did(manifest, tmp_path):
    out = finetune(small_finetune(manifest, tmp_path / "run", seeds=(0, 1)))
    summary, one = read(out), read(out / "seed_0")
    told = summary["metrics"]["accuracy"]
    values = [read(out / f"seed_{seed}")["metrics"]["accuracy"]["value"] for seed in (0, 1)]
    assert told["values"] == {"0": values[0], "1": values[1]}
    assert told["mean"] == pytest.approx(sum(values) / 2) and told["low"] <= told["mean"]
    assert one["rows"] == {
        "train": {"rows": 8, "groups": 8},
        "val": {"rows": 4, "groups": 4},
        "test": {"rows": 4, "groups": 4},
    }
    assert one["not_scored"] == [] and one["unit"] == "groups" and one["protocol"] == "honest"
    assert one["weights"] == {"source": "random weights of timesformer_mini"}
    table = samples(out / "seed_0")
    assert len(table) == 4 and set(table[0]) == {
        "sample", "group", "truth", "told", "p/normal", "p/polyp"
    }  # fmt: skip
    right = sum(row["truth"] == row["told"] for row in table) / 4
    assert one["metrics"]["accuracy"]["value"] == right
    written = rows(out / "seed_0")
    steps = [row["step"] for row in written if "loss" in row]
    assert steps == [2, 4, 6, 8]
    assert [row["step"] for row in written if "val/macro_f1" in row] == [4, 8]


def test_the_test_is_run_once_and_another_recipe_is_refused_in_its_folder(manifest, tmp_path):
    config = small_finetune(manifest, tmp_path / "run", epochs=1)
    finetune(config)
    file = tmp_path / "run" / "seed_0" / "metrics.json"
    before = file.stat().st_mtime_ns
    finetune(config)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"another recipe \(tuning.method: full -> head\)"):
        finetune(small_finetune(manifest, tmp_path / "run", epochs=1, method="head"))
    other = write_labelled(tmp_path / "other", 20)
    with pytest.raises(RunError, match="result of other rows"):
        finetune(small_finetune(other, tmp_path / "run", epochs=1))


def test_a_run_of_other_seeds_in_a_result_that_is_being_made_is_refused(manifest, tmp_path):
    (tmp_path / "run").mkdir()
    code = f"{LOCK}; print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=r"Another run is writing to \S+run;"):
            finetune(small_finetune(manifest, tmp_path / "run", epochs=1, seeds=(5,)))
        other.kill()
    finetune(small_finetune(manifest, tmp_path / "run", epochs=1, seeds=(5,)))


def test_a_program_holds_its_result_from_the_first_seed_to_the_summary(
    manifest, tmp_path, monkeypatch
):
    held = []

    def try_from_another_process(config):
        command = [sys.executable, "-c", LOCK, str(config.run.out / ".lock")]
        ended = subprocess.run(command, capture_output=True)
        held.append(b"BlockingIOError" in ended.stderr)

    monkeypatch.setattr(train, "summarize", try_from_another_process)
    finetune(small_finetune(manifest, tmp_path / "run", epochs=1))
    assert held == [True]


def test_patience_may_differ_between_starts_and_reaches_the_readers(
    manifest, tmp_path, monkeypatch
):
    real, given = Batches.__init__, []

    def init(self, dataset, batches, workers, pin_memory, join, patience_seconds):
        given.append(patience_seconds)
        real(self, dataset, batches, workers, pin_memory, join, patience_seconds)

    monkeypatch.setattr(Batches, "__init__", init)
    config = small_finetune(manifest, tmp_path / "run", method="head", **PLAIN, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(train, "write_result", lambda *args: None)
        patch.setattr(train, "summarize", lambda config: None)
        finetune(replace(config, run=replace(config.run, patience_seconds=50)))
    assert given == [50] * 5  # features, training, validation, and at the end both again
    for patience in (70, 90):
        finetune(replace(config, run=replace(config.run, patience_seconds=patience)))
    assert set(given[5:]) == {70}  # the finished run is not judged again


def test_the_best_checkpoint_on_validation_is_the_one_that_is_tested(manifest, tmp_path):
    out = finetune(small_finetune(manifest, tmp_path / "run", epochs=4)) / "seed_0"
    validations = {r["step"]: r["val/macro_f1"] for r in rows(out) if "val/macro_f1" in r}
    chosen = read(out)["chosen"]
    assert chosen["value"] == max(validations.values())
    assert chosen["step"] == min(s for s, v in validations.items() if v == chosen["value"])
    assert read(out)["validation"]["macro_f1"]["value"] == pytest.approx(chosen["value"])
    best = load_file(out / "best.safetensors")
    kept = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(best[name], kept[name]) for name in kept)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_stopped_run_goes_on_to_the_same_weights_and_result(
    manifest, tmp_path, kind, monkeypatch
):
    def recipe(out):
        model = dict(drop_path=0.2) if kind == "classification" else {}
        return small_finetune(manifest, tmp_path / out, kind=kind, epochs=3, patience=2, **model)

    finetune(recipe("whole"))
    save = Checkpoints.save

    def die_after_the_first(self, step):
        path = save(self, step)
        if step == 4:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr(Checkpoints, "save", die_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe("broken"))
    monkeypatch.setattr(Checkpoints, "save", save)
    finetune(recipe("broken"))
    whole, broken = (tmp_path / name / "seed_0" for name in ("whole", "broken"))
    one, two = last_weights(whole), last_weights(broken)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert read(whole)["metrics"] == read(broken)["metrics"]
    assert read(whole)["chosen"] == read(broken)["chosen"]
    timing = {"clips_per_second", "step_seconds", "data_wait_share", "memory_gib"}
    told = [
        [{k: v for k, v in r.items() if k not in timing} for r in rows(p)] for p in (whole, broken)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection"])
def test_evaluating_the_saved_model_gives_the_programs_figures(manifest, tmp_path, kind):
    out = finetune(small_finetune(manifest, tmp_path / "run", kind=kind, epochs=1))
    AcceleratorState._reset_state(True)
    again = evaluate(Evaluate(out, manifest, out=tmp_path / "again", batch_size=3, workers=0))
    told = read(out / "seed_0")
    for name, value in again.values.items():
        assert value.value == pytest.approx(told["metrics"][name]["value"], abs=1e-5), name
    assert samples(tmp_path / "again") == samples(out / "seed_0")
    assert read(tmp_path / "again")["unit"] == told["unit"]


def test_a_frozen_backbones_features_are_computed_once(manifest, tmp_path, monkeypatch):
    config = small_finetune(manifest, tmp_path / "run", method="head", **PLAIN)
    assert config.keeps_features
    finetune(config)
    (file,) = (tmp_path / "run" / "features").iterdir()
    before = file.stat().st_mtime_ns
    finetune(small_finetune(manifest, tmp_path / "run", method="head", seeds=(0, 5), **PLAIN))
    files = list((tmp_path / "run" / "features").iterdir())
    assert len(files) == 2 and file.stat().st_mtime_ns == before  # random weights: one a seed
    shown = small_finetune(manifest, tmp_path / "shown", method="head", **PLAIN)
    monkeypatch.setattr(type(shown), "keeps_features", property(lambda self: False))
    finetune(shown)
    one, two = (
        [row["loss"] for row in rows(tmp_path / name / "seed_0") if "loss" in row]
        for name in ("run", "shown")
    )
    assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("method", ["knn", "linear_probe"])
def test_probes_need_no_training_and_share_the_features(manifest, tmp_path, method):
    config = small_finetune(
        manifest, tmp_path / "run", method=method, test_views=(2, 1), label_share=(0.5, 1.0)
    )
    if method == "linear_probe":
        config = replace(config, data=replace(config.data, label_share=(1.0,)))
    out = finetune(config)
    summary = read(out)
    assert set(summary["label_shares"]) == {f"{share:g}" for share in config.data.label_share}
    assert summary["metrics"]["accuracy"]["mean"] is not None
    assert not list(out.rglob("checkpoints"))


def test_a_curve_over_shares_of_the_labels_has_a_folder_for_each(manifest, tmp_path):
    out = finetune(small_finetune(manifest, tmp_path / "run", epochs=1, label_share=(0.25, 1.0)))
    counts = [read(out / f"labels_{s}" / "seed_0")["rows"]["train"]["rows"] for s in ("0.25", "1")]
    assert counts == [2, 8]
    assert {read(out / f"labels_{s}" / "seed_0")["label_share"] for s in ("0.25", "1")} == {0.25, 1}


def test_broken_clips_are_counted_in_training_and_named_at_test(tmp_path):
    manifest = write_labelled(tmp_path / "corpus", 16)
    for name in ("clip_00", "clip_06"):  # one to learn from, one of the test rows
        (tmp_path / "corpus" / name / "0.png").write_bytes(b"no picture")
        (tmp_path / "corpus" / name / "1.png").write_bytes(b"no picture")
        (tmp_path / "corpus" / name / "2.png").write_bytes(b"no picture")
    config = small_finetune(manifest, tmp_path / "run", epochs=1, max_broken_share=0.3)
    out = finetune(config) / "seed_0"
    told = read(out)
    assert [item["name"] for item in told["not_scored"]] == ["clip_06[0:4]"]
    assert len(samples(out)) == 3 and read(out.parent)["not_scored"] == 1
    with pytest.raises(RunError, match=r"data\.max_broken_share"):
        finetune(small_finetune(manifest, tmp_path / "strict", epochs=1, max_broken_share=0.0))


def test_too_few_labels_are_one_sentence_and_no_traceback(tmp_path, manifest, capsys):
    recipe = tmp_path / "recipe.yaml"
    config = small_finetune(manifest, tmp_path / "run", classes=("normal", "ulcer"))
    recipe.write_text(to_yaml(config), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(recipe)])
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert "has the label 'polyp'" in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_explaining_trains_nothing(tmp_path, manifest, capsys):
    recipe = tmp_path / "recipe.yaml"
    config = small_finetune(manifest, tmp_path / "run", seeds=(0, 1), method="lora")
    recipe.write_text(to_yaml(config), encoding="utf-8")
    main(["--config", str(recipe), "--explain"])
    told = capsys.readouterr().out
    for words in ("8 rows of 8 groups", "polyp 4", "(lora)", "macro_f1 on validation", "runs "):
        assert words in told
    assert not (tmp_path / "run").exists()


def test_a_cpu_that_is_slow_in_bf16_is_warned_of(tmp_path, manifest, monkeypatch, capsys):
    speeds = {"no": 1e12, "bf16": 5e10}
    monkeypatch.setattr(
        "endofm.training.estimate.matrix_speed", lambda device, kind, **_: speeds[kind]
    )
    AcceleratorState._reset_state(True)
    config = small_finetune(manifest, tmp_path / "run")
    config = replace(config, run=replace(config.run, precision="bf16"))
    (tmp_path / "recipe.yaml").write_text(to_yaml(config), encoding="utf-8")
    for asked in (["--explain"], []):
        main(["--config", str(tmp_path / "recipe.yaml"), *asked])
        told = capsys.readouterr().out
        assert told.count("give --run.precision no") == 1, asked


def test_a_legacy_protocol_chooses_on_the_test_rows_and_says_so(manifest, tmp_path):
    out = finetune(
        small_finetune(manifest, tmp_path / "run", protocol="legacy_polypdiag", positive="polyp")
    )
    told = read(out / "seed_0")
    assert told["protocol"] == "legacy_polypdiag" and told["rows"]["val"] == told["rows"]["test"]
    assert told["metrics"]["f1"]["value"] == pytest.approx(told["validation"]["f1"]["value"])
    assert load_finetuned(out / "seed_0" / "model").config.protocol == "legacy_polypdiag"


def test_phases_judge_every_nth_frame_of_a_video_whatever_its_rows(tmp_path):
    """Each video has two rows, the frames before and from its third on, of different phases."""
    manifest = write_labelled(tmp_path / "corpus", 16, num_frames=8)
    halves = [
        replace(row, start_frame=start, stop_frame=stop, labels={"phase": phase})
        for row in read_manifest(manifest)
        for start, stop, phase in ((0, 3, "first"), (3, 8, "second"))
    ]
    write_manifest(manifest, halves)
    config = small_finetune(
        manifest, tmp_path / "run", label="phase", every_frames=2, stride=1, epochs=1
    )
    out = finetune(config) / "seed_0"
    told, table = read(out), samples(out)
    assert told["unit"] == "rows" and len(table) == 4 * 4
    truths = [row["truth"] for row in table[:4]]
    assert truths == ["first", "first", "second", "second"]
    assert told["metrics"]["accuracy_per_group"]["value"] == pytest.approx(
        told["metrics"]["accuracy"]["value"]
    )
    AcceleratorState._reset_state(True)
    again = evaluate(Evaluate(out, manifest, workers=0))
    assert again.values["accuracy"].value == told["metrics"]["accuracy"]["value"]


def test_the_legacy_lists_may_share_clips_and_choose_on_the_test(manifest, tmp_path):
    rows = [row for row in read_manifest(manifest) if row.labels["polyp"] == "polyp"]
    lists = []
    for part, chosen in (("train", rows[:4]), ("test", rows[2:6])):
        lists.append(manifest.parent / f"legacy_{part}.csv")
        write_manifest(lists[-1], [replace(row, split=part) for row in chosen])
    config = small_finetune(
        manifest, tmp_path / "run", kind="segmentation", protocol="legacy_cvc12k", epochs=1
    )
    config = replace(config, data=replace(config.data, manifests=tuple(lists)))
    told = read(finetune(config) / "seed_0")
    assert told["rows"]["train"]["rows"] == told["rows"]["val"]["rows"] == 4
    assert told["validation"]["dice"]["value"] == told["metrics"]["dice"]["value"]
    assert "legacy_dice" in told["metrics"]
    with pytest.raises(ManifestError, match="Two manifests have the clip clip_04"):
        finetune(replace(config, task=replace(config.task, protocol="honest")))
