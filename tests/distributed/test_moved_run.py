"""A run that goes on with another number of processes; and a value that is not finite on one."""

import json
from dataclasses import replace

import pytest
import torch

from tests.processes import ROOT, finish, rows, run_to_the_end, start, state
from tests.small import small_recipe, write_corpus

BREAK = 4
"""The step in which the first part of a run dies."""

WATCHED = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from endofm.training.log import RunLog
from pretrain.__main__ import main

real = RunLog.update


def update(self, step, scalars, batches, waited):
    names = [name for batch in batches for name in batch.names]
    drawn = float(torch.rand(()))
    with (self.run.folder / f"seen_{{self.run.rank}}.jsonl").open("a") as file:
        file.write(json.dumps([step, names, drawn]) + "\\n")
    if os.environ.get("BREAK") == str(step):
        os._exit(9)
    if os.environ.get("SPOIL") == str(self.run.rank) and step == 2:
        scalars = {{**scalars, "loss": scalars["loss"] * float("nan")}}
    real(self, step, scalars, batches, waited)


RunLog.update = update
main()
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "watched.py"
    file.write_text(WATCHED)
    return file


def recipe(manifest, out, world, drop_path=0.0):
    """Eight steps of four clips, whatever the number of processes."""
    config = small_recipe(manifest, out, save_every=2, log_every=1)
    optim = replace(config.optim, epochs=4, batch_size=4 // world, freeze_last_layer_epochs=0)
    return replace(config, optim=optim, model=replace(config.model, drop_path=drop_path))


def seen(out):
    """Step -> clips of that step over all processes, in order; and what each rank drew."""
    clips, drawn = {}, {}
    for file in sorted(out.glob("seen_*.jsonl")):
        for step, names, number in map(json.loads, file.read_text().splitlines()):
            clips.setdefault(step, []).extend(names)
            drawn.setdefault(step, []).append(number)
    return clips, drawn


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_run_moved_to_other_processes_sees_the_same_clips_and_ends_alike(
    tmp_path, script, monkeypatch, first, second
):
    manifest = write_corpus(tmp_path / "corpus", num_clips=8)
    run_to_the_end("pretrain", recipe(manifest, tmp_path / "whole", 1), 1, script)
    moved = tmp_path / "moved"
    monkeypatch.setenv("BREAK", str(BREAK))
    process = start("pretrain", recipe(manifest, moved, first), first, script)
    finish(process)
    assert process.returncode
    monkeypatch.delenv("BREAK")
    before, _ = seen(moved)
    for file in moved.glob("seen_*"):
        file.unlink()
    told = run_to_the_end("pretrain", recipe(manifest, moved, second), second, script)
    assert f"Goes on from the checkpoint of step {BREAK}" in told
    after, drawn = seen(moved)
    whole, _ = seen(tmp_path / "whole")
    assert set(after) == set(range(BREAK, 8)) and {**before, **after} == whole
    assert all(len(set(numbers)) == second for numbers in drawn.values())  # a rank has its own
    losses = [[row["loss"] for row in rows(tmp_path / out)] for out in ("whole", "moved")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, two = state(tmp_path / "whole"), state(moved)
    for name in ("center", "student.head.last_layer.weight_v", "teacher.backbone.cls_token"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_value_that_is_not_finite_on_one_rank_stops_all_and_names_rank_step_and_batch(
    tmp_path, script, monkeypatch
):
    manifest = write_corpus(tmp_path / "corpus", num_clips=8)
    monkeypatch.setenv("SPOIL", "1")
    process = start("pretrain", recipe(manifest, tmp_path / "run", 2), 2, script)
    told = finish(process)
    assert process.returncode
    _, names, _ = json.loads((tmp_path / "run" / "seen_1.jsonl").read_text().splitlines()[2])
    assert told.count("Step 2 gave a value that is not finite (loss)") == 1, told[-4000:]
    assert f"on the batch {', '.join(names)} of rank 1;" in told
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "whole.json").is_file()
