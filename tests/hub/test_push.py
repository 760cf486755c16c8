import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

import endofm
from endofm.cli import main
from endofm.errors import WeightsError
from endofm.hub.huggingface import fetch, push
from tests.hub.small_hub import TOKEN, same_weights, save_model

FILES = {"config.json", "model.safetensors", "reference.safetensors", "README.md"}
constants = huggingface_hub.constants


def test_pushed_and_fetched_a_model_is_the_same(remote, folder, login):
    (folder / "patients.csv").write_text("name")
    address = push(folder, "lab/endo", message="First")
    repository = remote.repositories["lab/endo"]
    assert repository.private and repository.messages == ["", "First"]
    assert address == f"{remote.address}/lab/endo/commit/{repository.branches['main']}"
    assert repository.trees[repository.branches["main"]].keys() == FILES | {".gitattributes"}
    assert same_weights(endofm.load(fetch("lab/endo")), endofm.load(folder))


def test_a_pushed_card_says_the_models_name(remote, folder, login):
    push(folder, "lab/endo")
    card = (fetch("lab/endo") / "README.md").read_text()
    assert 'endofm.load("lab/endo")' in card and "this/folder" not in card
    assert 'endofm.load("this/folder")' in (folder / "README.md").read_text()


def test_a_branch_is_pushed_beside_the_main_one(remote, folder, login, tmp_path):
    push(folder, "lab/endo")
    newer = save_model(tmp_path / "newer", seed=1)
    push(newer, "lab/endo", branch="v2")
    assert same_weights(endofm.load(fetch("lab/endo")), endofm.load(folder))
    assert same_weights(endofm.load(fetch("lab/endo", "v2")), endofm.load(newer))


def test_what_should_stay_private_is_not_pushed_where_all_see_it(remote, folder, login):
    before = remote.repository("lab/open", {}).branches.copy()
    with pytest.raises(WeightsError, match="lab/open is public"):
        push(folder, "lab/open")
    assert remote.repositories["lab/open"].branches == before
    push(folder, "lab/open", private=False)
    assert fetch("lab/open").is_dir()


def test_a_broken_folder_is_not_pushed(remote, folder, login):
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        push(folder, "lab/endo")
    save_model(folder)
    (folder / "README.md").unlink()
    with pytest.raises(WeightsError, match="no model card"):
        push(folder, "lab/endo")
    assert remote.asked == []


def test_a_card_the_hub_cannot_read_is_said_before_anything_is_sent(remote, folder, login):
    (folder / "README.md").write_text("---\ntags: [a\n---\n# Model\n")
    with pytest.raises(WeightsError, match="refuses the model card"):
        push(folder, "lab/endo")
    assert len(remote.repositories["lab/endo"].messages) == 1


def test_pushing_needs_a_login_and_the_right(remote, folder, monkeypatch):
    with pytest.raises(WeightsError, match="hf auth login"):
        push(folder, "lab/endo")
    assert remote.asked == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(WeightsError, match=r"refuses others/endo .403") as caught:
        push(folder, "others/endo")
    assert TOKEN not in str(caught.value)


def test_pushing_offline_is_said(remote, folder, login, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        push(folder, "lab/endo")


def test_the_command_pushes_with_the_clients_own_variables(remote, folder, tmp_path):
    home = {"HF_ENDPOINT": remote.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    words = [sys.executable, "-m", "endofm", "push", str(folder), "lab/endo", "--branch", "v1"]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, env=os.environ | home)
    assert done.returncode == 0, done.stderr
    repository = remote.repositories["lab/endo"]
    assert done.stdout == f"{remote.address}/lab/endo/commit/{repository.branches['v1']}\n"
    assert repository.private and TOKEN not in done.stdout + done.stderr


def test_the_command_says_what_is_wrong_in_one_sentence(remote, folder, capsys):
    with pytest.raises(SystemExit):
        main(["push", str(folder), "lab/endo"])
    said = capsys.readouterr().err
    assert said.startswith("error: Pushing to lab/endo") and said.count("\n") == 1
