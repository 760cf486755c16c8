import sys
import threading
import time
from pathlib import Path

import pytest

from endofm.training import trackers
from endofm.training.trackers import Trackers
from pretrain.train import train
from tests.small import small_recipe, write_corpus


class Scripted:
    """A tracker that fails, or never comes back, where it is told to; else it keeps its rows."""

    def __init__(self, where, action):
        self.where, self.action, self.rows = where, action, []
        self._maybe("init")

    def _maybe(self, place):
        if place == self.where:
            self.action()

    def log(self, row, step):
        self._maybe("log")
        self.rows.append((step, row))

    def finish(self):
        self._maybe("finish")
        self.rows.append("finished")


def refuse():
    raise ConnectionError("no server at 10.0.0.1")


def block():
    threading.Event().wait(1000)


@pytest.fixture
def scripted(monkeypatch):
    """Makes `wandb` a tracker that does `action` where it is told to."""

    def script(where, action):
        made = []

        def start(folder, tree):
            made.append(Scripted(where, action))
            return made[-1]

        monkeypatch.setitem(trackers.START, "wandb", start)
        return made

    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.5)
    return script


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_with_a_sentence(scripted, where):
    scripted(where, refuse)
    told = []
    some = Trackers(["wandb"], Path("run"), {}, told.append)
    for step in range(3):
        some.log({"loss": 1.0}, step)
    some.finish()
    assert told == ["The tracker wandb failed and is left out from here on: no server at 10.0.0.1"]


def test_a_failure_without_a_text_is_told_by_its_kind(scripted):
    def fail():
        raise TimeoutError

    scripted("init", fail)
    told = []
    Trackers(["wandb"], Path("run"), {}, told.append).finish()
    assert told == ["The tracker wandb failed and is left out from here on: TimeoutError"]


def test_an_absent_tensorboard_is_told_with_the_way_to_have_it(tmp_path, monkeypatch):
    for name in ("torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    told = []
    Trackers(["tensorboard"], tmp_path, {}, told.append).finish()
    assert len(told) == 1 and "pip install 'endofm[tensorboard]'" in told[0]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_never_answers_delays_nothing_but_the_end_and_that_not_for_long(
    scripted, where
):
    scripted(where, block)
    told = []
    start = time.monotonic()
    some = Trackers(["wandb"], Path("run"), {}, told.append)
    for step in range(100):
        some.log({"loss": 1.0}, step)
    assert time.monotonic() - start < 0.5 and not told
    some.finish()
    some.finish()
    assert time.monotonic() - start < 2
    assert told == ["The tracker wandb was not finished within 0.5 s and is left alone."]


def test_rows_do_not_pile_up_for_a_tracker_that_never_answers(scripted):
    scripted("init", block)
    told = []
    some = Trackers(["wandb"], Path("run"), {}, told.append)
    for step in range(5000):
        some.log({"loss": 1.0}, step)
    assert told == ["The tracker wandb does not answer and is left out from here on."]
    assert some.all[0].rows.qsize() == trackers.MAX_WAITING + 1
    some.finish()


def test_a_tracker_that_works_gets_every_row_in_order(scripted):
    made = scripted("nowhere", refuse)
    told = []
    some = Trackers(["wandb"], Path("run"), {}, told.append)
    for step in range(50):
        some.log({"loss": float(step)}, step)
    some.finish()
    assert made[0].rows == [*((n, {"loss": float(n)}) for n in range(50)), "finished"] and not told


def test_a_run_goes_on_without_its_tracker(tmp_path, scripted, capsys):
    scripted("log", refuse)
    train(small_recipe(write_corpus(tmp_path), tmp_path / "run", trackers=("wandb",)))
    assert "The tracker wandb failed" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_folder_that_cannot_be_written_leaves_tensorboard_out_with_a_sentence(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("no folder")
    told = []
    some = Trackers(["tensorboard"], tmp_path / "file", {}, told.append)
    some.log({"loss": 1.0}, 1)
    some.finish()
    assert len(told) == 1 and "tensorboard failed" in told[0]


@pytest.mark.slow
def test_a_wandb_server_that_cannot_be_reached_delays_only_the_end(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 3.0)
    told = []
    start = time.monotonic()
    some = Trackers(["wandb"], tmp_path, {}, told.append)
    some.log({"loss": 1.0}, 1)
    assert time.monotonic() - start < 0.5
    some.finish()
    assert time.monotonic() - start < 20
    assert len(told) == 1 and "The tracker wandb" in told[0]
