"""What may go wrong around a pretraining run, and must not change or end it without a word."""

import itertools
import time
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState

from endofm.data.pretraining.dataset import load_corpus
from endofm.errors import ConfigError, RunError
from endofm.training.optim import OptimConfig
from pretrain.plan import make_plan
from pretrain.train import train
from tests.processes import rows
from tests.small import small_recipe, write_corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_clock_that_jumps_changes_nothing(manifest, tmp_path, monkeypatch):
    train(small_recipe(manifest, tmp_path / "steady"))
    AcceleratorState._reset_state(True)
    jumps = itertools.cycle([4e9, 0.0, -1e9, 1e12])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    config = small_recipe(manifest, tmp_path / "jumping")
    train(replace(config, data=replace(config.data, workers=1)))
    steady, jumping = (rows(tmp_path / out) for out in ("steady", "jumping"))
    assert [row["loss"] for row in steady] == [row["loss"] for row in jumping]
    assert all(0 < row["step_seconds"] < 60 for row in jumping)


def test_more_processes_than_clips_are_refused(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run", optim=OptimConfig(batch_size=1))
    corpus = load_corpus(config.data)
    assert make_plan(config, corpus, rank=5, world=6).steps
    with pytest.raises(ConfigError, match=r"takes 7 clips .* x 7 processes.* has only 6"):
        make_plan(config, corpus, rank=0, world=7)


def test_a_changed_network_is_refused_even_where_the_user_takes_the_change(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run")
    train(config)
    other = replace(config, objective=replace(config.objective, prototypes=16))
    with pytest.raises(RunError, match=r"objective\.prototypes: 32 -> 16.*delete .*config\.yaml"):
        train(other)
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"step-00000006 can't be read into this run"):
        train(other)


def test_a_changed_option_that_the_user_takes_acts_from_the_checkpoint_on(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run", log_every=1, save_every=3)
    train(config)
    (tmp_path / "run" / "checkpoints" / "step-00000006" / "whole.json").unlink()
    before = rows(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    train(replace(config, optim=replace(config.optim, lr_per_256=0.01)))
    after = rows(tmp_path / "run")
    assert after[:3] == before[:3] and after[4]["learning_rate"] > before[4]["learning_rate"]
