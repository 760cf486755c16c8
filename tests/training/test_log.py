"""What a run writes about itself, and at what it stops."""

import csv
import json
import math
import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from endofm.data.pretraining import dataset as module
from endofm.errors import RunError
from endofm.report.curves import read_metrics
from endofm.tasks.pretraining import endofm as pretraining
from endofm.training.checkpoint import Checkpoints
from endofm.training.log import Pending, RunLog
from pretrain.train import train
from tests.small import small_recipe, write_corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_row_has_losses_times_memory_and_health(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run")
    optim = replace(config.optim, batch_size=6, epochs=6)  # 12 features a step
    train(replace(config, optim=optim))
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    for name in (
        "loss", "cross_view", "dynamic", "gradient_norm", "clips_per_second", "step_seconds",
        "data_wait_share", "memory_gib", "teacher_entropy", "marginal_entropy", "feature_std",
        "rankme",
    ):  # fmt: skip
        assert math.isfinite(last[name]), name
    assert 0.05 < last["memory_gib"] < 64 and 0 <= last["data_wait_share"] <= 1
    assert last["clips_per_second"] == pytest.approx(6 / last["step_seconds"])


def test_a_view_that_is_not_a_number_stops_the_run_naming_step_and_clips(
    manifest, tmp_path, monkeypatch
):
    real, steps = pretraining.network_views, []

    def views(batch, *rest):
        found = real(batch, *rest)
        steps.append(batch.names)
        if len(steps) == 4:
            found[1][0] = math.nan
        return found

    monkeypatch.setattr(pretraining, "network_views", views)
    with pytest.raises(RunError) as caught:
        train(small_recipe(manifest, tmp_path / "run", save_every=2))
    told = str(caught.value)
    assert "Step 3 gave a value that is not finite (loss, " in told
    assert ", ".join(steps[3]) in told and len(steps[3]) == 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.slow
def test_a_run_goes_on_without_a_clip_that_hangs_and_does_not_try_it_again_when_resumed(
    manifest, tmp_path, monkeypatch
):
    real, tried = module.read_segment, multiprocessing.Value("i", 0)

    def read(segment, *rest):
        if "clip_2" in segment.name:
            with tried.get_lock():
                tried.value += 1
            time.sleep(1000)
        return real(segment, *rest)

    monkeypatch.setattr(module, "read_segment", read)

    def recipe(out):
        config = small_recipe(manifest, tmp_path / out, save_every=2, patience_seconds=12)
        data = replace(config.data, workers=1, max_broken_share=0.2)
        return replace(config, data=data)

    train(recipe("run"))
    with (tmp_path / "run" / "quarantine.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["clip"] == "clip_2.mp4[0:12]" and "was not decoded within 3 s" in row["reason"]
    assert tried.value == 1
    last = tmp_path / "run" / "checkpoints" / "step-00000006"
    whole = load_file(last / "model.safetensors")
    (last / "whole.json").unlink()
    AcceleratorState._reset_state(True)
    train(recipe("run"))  # from step 4
    assert tried.value == 1
    again = load_file(last / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_rows_after_the_checkpoint_and_odd_lines_go_and_a_users_quarantine_is_read(
    manifest, tmp_path, capsys
):
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    train(config)
    (tmp_path / "run" / "checkpoints" / "step-00000006" / "whole.json").unlink()
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b'12\n{"loss": 1}\n{"step": 6, "lo\xff')
    (tmp_path / "run" / "quarantine.csv").write_text("clip_2.mp4[0:12],dark, and long\n")
    AcceleratorState._reset_state(True)
    train(replace(config, data=replace(config.data, max_broken_share=0.2)))
    found = read_metrics(file)
    assert [row["step"] for row in found] == [2, 4, 6]
    assert [row["broken_clips"] for row in found] == [0, 0, 1]
    assert "1 clips stay out" in capsys.readouterr().out


def test_a_full_disk_is_told_in_a_sentence(manifest, tmp_path, monkeypatch):
    real = json.dumps

    def full(row, *rest, **options):
        if isinstance(row, dict) and row.get("step") == 4:
            raise OSError(28, "No space left on device")
        return real(row, *rest, **options)

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(RunError, match=r"metrics\.jsonl can't be written \(No space left.*resumes"):
        train(small_recipe(manifest, tmp_path / "run"))


def test_time_of_saving_is_not_counted_as_time_of_the_steps(manifest, tmp_path, monkeypatch):
    aside, save, depth, saved = RunLog.aside, Checkpoints.save, [0], []

    @contextmanager
    def counted(self):
        with aside(self):
            depth[0] += 1
            yield
            depth[0] -= 1

    def watched(self, step):
        saved.append((step, depth[0]))
        return save(self, step)

    monkeypatch.setattr(RunLog, "aside", counted)
    monkeypatch.setattr(Checkpoints, "save", watched)
    train(small_recipe(manifest, tmp_path / "run", save_every=2))
    assert saved == [(2, 1), (4, 1), (6, 1)]


def test_time_spent_aside_is_not_counted_as_time_of_the_steps():
    log = RunLog.__new__(RunLog)
    log.pending = Pending()
    with log.aside():
        time.sleep(0.3)
    assert time.perf_counter() - log.pending.since < 0.2
