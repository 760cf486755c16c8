import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from endofm.errors import ConfigError, RunError
from endofm.training import setup
from endofm.training.setup import RunConfig, StopSignal, start_run


@pytest.fixture
def stop():
    stop = StopSignal()
    yield stop
    stop.restore()


def test_a_signal_and_its_echo_by_the_launcher_ask_once(stop):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM


def test_a_second_signal_after_a_while_ends_the_program_at_once(stop, monkeypatch):
    os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(setup, "ECHO_SECONDS", -1.0)
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert raised == [signal.SIGTERM] and stop.number == signal.SIGINT


def test_random_numbers_of_a_step_hang_on_seed_step_and_rank_alone(tmp_path):
    def draw(run, step):
        run.seed_step(step)
        return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002

    with start_run(RunConfig(out=tmp_path, seed=2**40), {}) as run:
        first = [draw(run, step) for step in range(3)]
        torch.rand(5)
        assert draw(run, 1) == first[1] and len(set(first)) == 3
        run.accelerator.state._shared_state["process_index"] = 1
        assert run.rank == 1 and draw(run, 1) not in first
    with start_run(RunConfig(out=tmp_path / "other", seed=1), {}) as run:
        assert draw(run, 1) not in first


def tree(**run):
    return {"optim": {"epochs": 3}, "run": {"log_every": 2, **run}}


def test_deleting_the_configuration_lets_a_run_go_on_with_another(tmp_path):
    config = RunConfig(out=tmp_path)
    with start_run(config, tree()):
        (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with start_run(config, tree(log_every=5)):
        pass
    other = {**tree(), "optim": {"epochs": 4}}
    with pytest.raises(RunError, match=r"optim\.epochs: 3 -> 4.*delete .*config\.yaml to go on"):
        start_run(config, other)
    (tmp_path / "config.yaml").unlink()
    with start_run(config, other):
        assert "epochs: 4" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\0"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    config = RunConfig(out=tmp_path)
    with start_run(config, tree()):
        (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml does not hold the configuration.*delete it"):
        start_run(config, tree())


def test_a_file_system_without_locks_is_told_and_does_not_stop_a_run(tmp_path, monkeypatch, capfd):
    def lockf(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with start_run(RunConfig(out=tmp_path), tree()):
        assert "without locks (Function not implemented)" in capfd.readouterr().err


def test_processes_that_accelerate_does_not_join_are_refused(tmp_path, monkeypatch):
    AcceleratorState._reset_state(True)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2.*ACCELERATE_USE_CPU=true"):
            start_run(RunConfig(out=tmp_path), tree())
    AcceleratorState._reset_state(True)


def test_a_refused_start_gives_the_folder_back(tmp_path):
    config = RunConfig(out=tmp_path)
    with start_run(config, tree()):
        (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(RunError, match="another configuration"):
        start_run(config, {})
    for _ in range(2):
        with start_run(config, tree()):
            pass


def test_a_full_disk_at_the_start_is_one_sentence_and_keeps_what_was_there(tmp_path, monkeypatch):
    with start_run(RunConfig(out=tmp_path), tree()):
        pass
    before = (tmp_path / "config.yaml").read_text()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"config\.yaml can't be written \(No space left.*make room"):
        start_run(RunConfig(out=tmp_path), tree(log_every=7))
    assert (tmp_path / "config.yaml").read_text() == before


def test_patience_that_cannot_be_meant_is_refused():
    with pytest.raises(ConfigError, match=r"run\.patience_seconds is 0; give more than 0"):
        RunConfig(patience_seconds=0)


def test_a_clock_that_jumps_changes_nothing_about_stopping(stop, monkeypatch):
    monkeypatch.setattr(time, "time", iter([1e9, 0.0, 2e9]).__next__)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM
