import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from endofm.errors import RunError
from endofm.training import checkpoint
from endofm.training.checkpoint import Checkpoints


def make(folder, width=4, **changes):
    """A network whose weights are all `n` after `n` steps, in its run's checkpoints."""
    accelerator = Accelerator(cpu=True)
    network = nn.Linear(width, 1)
    network, _ = accelerator.prepare(network, torch.optim.AdamW(network.parameters()))
    facts = {"global_batch": 4, "corpus": "clips", **changes}
    return Checkpoints(folder, accelerator, **facts), network


def save(checkpoints, network, *steps):
    for step in steps:
        nn.init.constant_(network.weight, step)
        checkpoints.save(step)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_whole_checkpoints_stay_and_the_newest_is_restored(tmp_path):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1, 2, 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    again, other = make(tmp_path)
    assert again.restore() == 3 and torch.equal(other.weight, torch.full((1, 4), 3.0))


def test_an_empty_folder_restores_nothing(tmp_path):
    assert make(tmp_path / "new")[0].restore() == 0


@pytest.mark.parametrize("moment", ["network", "facts", "rename"])
def test_a_full_disk_at_any_moment_of_saving_loses_nothing(tmp_path, monkeypatch, moment):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1, 2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    target, name = {
        "network": (Accelerator, "save_state"),
        "facts": (Path, "write_text"),
        "rename": (checkpoint, "flush"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, full)
        with pytest.raises(RunError, match=r"step 3 can't be written.*No space left.*untouched"):
            save(checkpoints, network, 3)
    again, other = make(tmp_path)
    assert again.restore() == 2 and torch.equal(other.weight, torch.full((1, 4), 2.0))
    save(again, other, 4)
    assert names(tmp_path) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_deleted_in_part_is_not_taken_for_whole(tmp_path, monkeypatch):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1, 2)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: (path / "model.safetensors").unlink())
        save(checkpoints, network, 3)
    assert names(tmp_path) == ["old-00000001", "step-00000002", "step-00000003"]
    assert [path.name for path in checkpoints.whole()] == names(tmp_path)[1:]
    save(checkpoints, network, 4)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(checkpoint, "flush", lambda path: flushed.append(path.name))
    save(*make(tmp_path), 1)
    files = set(names(tmp_path / "step-00000001"))
    assert files == set(flushed[:-2]) and "whole.json" in files
    assert flushed[-2:] == ["part-00000001", tmp_path.name]


def test_folders_of_other_names_are_neither_read_nor_deleted(tmp_path):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1)
    copies = ["step-00000001_backup", "step-best", "step-3"]
    for name in copies:
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    save(checkpoints, network, 2, 3)
    assert names(tmp_path) == sorted([*copies, "step-00000002", "step-00000003"])
    assert make(tmp_path)[0].restore() == 3


def test_what_a_killed_save_left_behind_goes_with_the_next(tmp_path):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1)
    for name in ("part-00000002", "old-00000000", "step-00000003"):
        (tmp_path / name).mkdir()
    save(checkpoints, network, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 2}', '{"step": 7}'])
def test_a_checkpoint_that_does_not_say_what_it_is_is_named(tmp_path, text):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1, 2)
    (tmp_path / "step-00000002" / "whole.json").write_text(text)
    with pytest.raises(RunError, match=r"step-00000002/whole\.json does not say.*delete that"):
        make(tmp_path)[0].restore()


@pytest.mark.parametrize("way", ["save_state", "load_state"])
def test_what_torch_raises_about_divided_weights_is_told_in_a_sentence(tmp_path, monkeypatch, way):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1)

    def full(*_, **__):
        raise CheckpointException("", {1: (OSError(28, "No space left on device"), None)})

    monkeypatch.setattr(Accelerator, way, full)
    checkpoints.facts["weights"] = "sharded_state_dict"
    (tmp_path / "step-00000001" / "whole.json").write_text(
        json.dumps({"step": 1, **checkpoints.facts})
    )
    with pytest.raises(RunError, match="No space left on device"):
        checkpoints.restore() if way == "load_state" else checkpoints.save(2)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_there(tmp_path, file):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1, 2)
    damaged = tmp_path / "step-00000002"
    (damaged / file).write_bytes(b"\x00" * 100)
    again, other = make(tmp_path)
    with pytest.raises(RunError, match=r"step-00000002 can't be read .*delete that folder"):
        again.restore()
    shutil.rmtree(damaged)
    assert again.restore() == 1 and torch.equal(other.weight, torch.ones(1, 4))


def test_weights_of_another_shape_are_refused_in_one_sentence(tmp_path):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1)
    with pytest.raises(RunError, match=r"can't be read into this run .*bring back the config"):
        make(tmp_path, width=5)[0].restore()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(global_batch=6), "made with 4 clips a step, and this start has 6"),
        (dict(corpus="others"), "made with other clips than the manifests list now"),
    ],
)
def test_another_batch_or_corpus_is_refused(tmp_path, changes, sentence):
    save(*make(tmp_path), 1)
    with pytest.raises(RunError, match=sentence):
        make(tmp_path, **changes)[0].restore()


def test_processes_that_see_other_checkpoints_are_told_to_share_the_folder(tmp_path, monkeypatch):
    save(*make(tmp_path), 1)
    for folder, other in ((tmp_path, []), (tmp_path / "local", [tmp_path / "step-00000001"])):
        monkeypatch.setattr(checkpoint, "gather_objects", lambda own, other=other: [own, other])
        with pytest.raises(RunError, match=r"Not every process sees the same checkpoints.*share"):
            make(folder)[0].restore()


def test_a_failed_collective_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    checkpoints, network = make(tmp_path)
    save(checkpoints, network, 1)

    def lost(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")

    monkeypatch.setattr(Accelerator, "save_state", lost)
    with pytest.raises(RuntimeError, match="Connection closed"):
        save(checkpoints, network, 2)
    assert names(tmp_path) == ["step-00000001"]
    facts = json.loads((tmp_path / "step-00000001" / "whole.json").read_text())
    assert facts["step"] == 1
