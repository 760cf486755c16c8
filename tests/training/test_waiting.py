import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining import dataset as module
from endofm.report.curves import read_metrics
from endofm.training.waiting import own_cores, ways_out
from pretrain.train import train
from tests.small import small_recipe, write_corpus

CLIPS = [Segment(Path(), f"{n}.mp4") for n in range(3)]
WINDOWS = [Segment(Path(), "long.mp4", n, n + 30) for n in range(3)]


def test_more_workers_are_asked_for_while_there_are_cores():
    told = ways_out(0.6, 2, 16, CLIPS)
    assert "60% of the time" in told and "set data.workers to 5." in told
    assert "corpus" not in told
    assert "set data.workers to 2." in ways_out(0.5, 0, 16, CLIPS)


def test_long_videos_are_to_be_cut_where_more_workers_are_not_enough():
    told = ways_out(0.9, 4, 8, WINDOWS)
    assert "set data.workers to 8" in told and "endofm corpus prepare" in told
    assert "ten times" in told


def test_smaller_clips_are_asked_for_where_every_core_reads():
    told = ways_out(0.5, 8, 8, CLIPS)
    assert "set data.workers" not in told and "--short-side-pixels" in told


def test_cores_are_divided_among_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert own_cores() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert own_cores() == 2


@pytest.mark.parametrize(("seconds", "times"), [(0.4, 1), (0.0, 0)])
def test_a_run_that_waits_for_clips_says_so_once(tmp_path, monkeypatch, capsys, seconds, times):
    real = module.read_segment

    def read(*arguments):
        time.sleep(seconds)
        return real(*arguments)

    monkeypatch.setattr(module, "read_segment", read)
    recipe = small_recipe(write_corpus(tmp_path), tmp_path / "run", log_every=1)
    train(replace(recipe, data=replace(recipe.data, workers=1)))
    assert capsys.readouterr().out.count("reading limits this run (data.workers is 1;") == times
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert (rows[-1]["data_wait_share"] > 0.2) == bool(times)
