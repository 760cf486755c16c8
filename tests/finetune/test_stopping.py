"""A run that is asked to stop, wherever it is: it ends soon, and the same command ends it."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.tasks.classification.task import Classification, ClassificationTask
from endofm.tasks.finetuning.step import TuneStep
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled
from tests.processes import (
    ROOT,
    assert_equal_bit_for_bit,
    finish,
    last_step,
    num_rows,
    ranks,
    rows,
    run_to_the_end,
    send,
    start,
    wait_for,
)

TIMING = {"clips_per_second", "step_seconds", "data_wait_share", "memory_gib"}

SLOW = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from endofm.tasks.classification.task import Classification
from finetune.__main__ import main

real = Classification.predict


def predict(self, batch):
    Path(os.environ["JUDGES"]).touch()
    time.sleep(0.5)
    return real(self, batch)


if "JUDGES" in os.environ:
    Classification.predict = predict
main()
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Nine clips to learn from, five of validation, four of the test."""
    folder = tmp_path_factory.mktemp("corpus")
    manifest = write_labelled(folder, 18, splits=("train", "train", "val"))
    clips = read_manifest(manifest)
    assert clips[-1].split == "train"
    write_manifest(manifest, [*clips[:-1], replace(clips[-1], split="val")])
    return manifest


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    """A run that nothing stops: 12 steps, a validation after every fourth."""
    return finetune(recipe(manifest, tmp_path_factory.mktemp("whole") / "run")) / "seed_0"


def recipe(manifest, out, **changes):
    return small_finetune(manifest, out, epochs=3, log_every=1, drop_path=0.2, **changes)


def signal_at(monkeypatch, owner, name, number):
    """SIGTERM in a call of a method, counted from 1; the list of calls."""
    real, calls = getattr(owner, name), []

    def signalled(self, *args):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(owner, name, signalled)
    return calls


def told_rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows(folder)]


def assert_same_result(one, other):
    assert_equal_bit_for_bit(one, other)
    best = [load_file(folder / "best.safetensors") for folder in (one, other)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    steps = []
    for folder in (one, other):
        with safe_open(folder / "best.safetensors", "pt") as file:
            steps.append(file.metadata()["step"])
    told = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    for name in ("metrics", "chosen", "validation"):
        assert told[0][name] == told[1][name]
    assert steps == [str(told[0]["chosen"]["step"])] * 2
    assert (one / "samples.csv").read_bytes() == (other / "samples.csv").read_bytes()
    assert told_rows(one) == told_rows(other)


@pytest.mark.parametrize(
    ("owner", "name", "number", "saved", "asked"),
    [
        (TuneStep, "__call__", 3, 3, 3),  # in a step
        (TuneStep, "__call__", 4, 4, 4),  # in one that a validation follows
        (Classification, "predict", 1, 4, 1),  # in the first batch of the first validation
        (Classification, "predict", 4, 8, 4),  # of the second
        (Classification, "predict", 10, 12, 10),  # after training, on validation
        (Classification, "predict", 13, 12, 13),  # on the test
    ],
    ids=["step", "last_step", "validation", "second_validation", "judging", "test"],
)
def test_a_run_asked_to_stop_ends_within_a_batch_and_goes_on_bit_for_bit(
    manifest, whole, tmp_path, monkeypatch, capsys, owner, name, number, saved, asked
):
    config = recipe(manifest, tmp_path / "run")
    out = config.run.out / "seed_0"
    with monkeypatch.context() as patch:
        calls = signal_at(patch, owner, name, number)
        with pytest.raises(SystemExit) as stopped:
            finetune(config)
    assert stopped.value.code == 128 + signal.SIGTERM and len(calls) == asked
    assert capsys.readouterr().out.count("the same command goes on from there") == 1
    assert last_step(out) == saved and not (out / "metrics.json").exists()
    finetune(config)
    assert_same_result(whole, out)


def test_a_run_asked_to_stop_while_features_are_computed_goes_on(
    manifest, tmp_path, monkeypatch, capsys
):
    config = recipe(manifest, tmp_path / "run", method="head", **PLAIN)
    assert config.keeps_features
    with monkeypatch.context() as patch:
        calls = signal_at(patch, ClassificationTask, "features", 2)
        with pytest.raises(SystemExit) as stopped:
            finetune(config)
    assert stopped.value.code == 128 + signal.SIGTERM and len(calls) == 2
    assert "the same command goes on from there" in capsys.readouterr().out
    finetune(config)
    again = recipe(manifest, tmp_path / "again", method="head", **PLAIN)
    assert_same_result(finetune(again) / "seed_0", config.run.out / "seed_0")


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_in_a_validation_ends_real_processes_in_time(
    manifest, whole, tmp_path, monkeypatch, world
):
    """Two processes have three and two clips of validation: one has a batch more."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    config = recipe(manifest, tmp_path / "run", workers=1)
    config = replace(config, optim=replace(config.optim, batch_size=2 // world))
    out = config.run.out / "seed_0"
    if world == 2:
        undisturbed = replace(config, run=replace(config.run, out=tmp_path / "whole"))
        run_to_the_end("finetune", undisturbed, world)
        whole = tmp_path / "whole" / "seed_0"
        process = start("finetune", config, world)  # first in a step, by one of the two
        wait_for(process, lambda: num_rows(out) >= 2)
        send([ranks(process)[1]], signal.SIGTERM)
        told = finish(process)
        assert told.count("the same command goes on from there") == 1, told[-4000:]
    monkeypatch.setenv("JUDGES", str(tmp_path / "judges"))
    process = start("finetune", config, world, script)
    wait_for(process, (tmp_path / "judges").exists)
    begin = time.monotonic()
    if world == 1:
        os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: the workers get it too
    else:
        process.send_signal(signal.SIGTERM)  # the launcher hands it on
    told = finish(process)
    assert time.monotonic() - begin < 20
    assert told.count("Stopped while judging; the same command goes on") == 1, told[-4000:]
    assert process.returncode == 143 if world == 1 else process.returncode
    assert last_step(out) == 4 and not (out / "best.safetensors").exists()
    monkeypatch.delenv("JUDGES")
    if world == 1:
        finetune(config)
    else:
        run_to_the_end("finetune", config, world)
    assert_same_result(whole, out)
