import json
from pathlib import Path

import huggingface_hub
import pytest

import endofm
from endofm.errors import WeightsError
from endofm.hub.huggingface import fetch
from tests.hub.small_hub import TOKEN, contents, same_weights, save_model

FILES = {"config.json", "model.safetensors", "reference.safetensors", "README.md"}
constants = huggingface_hub.constants


def test_a_model_comes_by_name_and_only_its_own_files_are_asked_for(remote, folder, tmp_path):
    extra = {"evil.py": b"import os", "pytorch_model.bin": b"pickle", "data/patients.csv": b"x"}
    sha = remote.repository("lab/endo", contents(folder) | extra).branches["main"]
    place = fetch("lab/endo")
    assert {path.name for path in place.iterdir()} == FILES
    assert same_weights(endofm.load(place), endofm.load(folder))
    assert {file for _, file in remote.downloads()} == FILES
    assert {(sha, file) for file in FILES - {"config.json"}} <= set(remote.downloads())
    assert place.is_relative_to(tmp_path / "cache")
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "model"}


def test_what_is_in_the_cache_is_not_downloaded_again(remote, folder):
    remote.repository("lab/endo", contents(folder))
    first, sent = fetch("lab/endo"), len(remote.downloads())
    assert fetch("lab/endo") == first and len(remote.downloads()) == sent == 4


def test_a_revision_is_a_branch_or_a_commit(remote, folder, tmp_path):
    repository = remote.repository("lab/endo", contents(folder))
    old = repository.branches["main"]
    newer = save_model(tmp_path / "newer", seed=1)
    repository.commit(contents(newer), "v2")
    assert same_weights(endofm.load(fetch("lab/endo", "v2")), endofm.load(newer))
    repository.commit(contents(newer))
    assert same_weights(endofm.load(fetch("lab/endo")), endofm.load(newer))
    assert same_weights(endofm.load(fetch("lab/endo", old)), endofm.load(folder))


def test_load_takes_the_name_and_the_revision(remote, folder, tmp_path):
    repository = remote.repository("lab/endo", contents(folder))
    newer = save_model(tmp_path / "newer", seed=1)
    repository.commit(contents(newer), "v2")
    assert same_weights(endofm.load("lab/endo"), endofm.load(folder))
    assert same_weights(endofm.load("lab/endo", revision="v2"), endofm.load(newer))


@pytest.mark.parametrize("how", ["offline", "down"])
def test_without_the_hub_the_cache_serves(remote, folder, monkeypatch, how):
    sha = remote.repository("lab/endo", contents(folder)).branches["main"]
    place = fetch("lab/endo")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    remote.down = how == "down"
    assert fetch("lab/endo") == fetch("lab/endo", sha) == place
    assert same_weights(endofm.load(place), endofm.load(folder))


def test_offline_and_not_in_the_cache_is_said_with_the_place(remote, folder, monkeypatch):
    remote.repository("lab/endo", contents(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"not whole in the cache .*cache, .*HF_HUB_OFFLINE"):
        fetch("lab/endo")
    assert remote.asked == []


def test_a_download_cut_off_is_not_taken_for_whole_offline(remote, folder, monkeypatch):
    remote.repository("lab/endo", contents(folder))
    Path(fetch("lab/endo") / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="not whole"):
        fetch("lab/endo")


def test_nobody_at_the_address_is_a_sentence(remote, monkeypatch):
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    with pytest.raises(WeightsError, match="it can't be reached; connect once"):
        fetch("lab/endo")


@pytest.mark.parametrize("logged_in", [False, True])
def test_an_unknown_or_private_model_is_said(remote, folder, monkeypatch, logged_in):
    remote.repository("lab/hidden", contents(folder), private=True)
    if logged_in:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert fetch("lab/hidden").is_dir()
    else:
        with pytest.raises(WeightsError, match=r"shows no model lab/hidden; .*private.*login"):
            fetch("lab/hidden")
    with pytest.raises(WeightsError, match="shows no model lab/nothing"):
        fetch("lab/nothing")


def test_a_gated_model_says_where_to_ask(remote, folder):
    remote.repository("lab/gated", contents(folder), gated=True)
    with pytest.raises(WeightsError, match=f"ask for access at {remote.address}/lab/gated"):
        fetch("lab/gated")


def test_an_unknown_revision_is_said(remote, folder):
    remote.repository("lab/endo", contents(folder))
    with pytest.raises(WeightsError, match="no revision 'v7'"):
        fetch("lab/endo", "v7")


@pytest.mark.parametrize("revision", ["../../../../outside", "/outside", "..\\outside"])
def test_a_revision_cannot_lead_out_of_the_cache(remote, folder, tmp_path, revision):
    remote.repository("lab/endo", {}).commit(contents(folder), revision)
    with pytest.raises(WeightsError, match="git allows no such name"):
        fetch("lab/endo", revision)
    assert {path.name for path in tmp_path.iterdir()} == {"model"} and remote.asked == []


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "lab/../x", "lab/ü", "/x", "lab/"])
def test_what_is_no_name_is_refused_without_asking(remote, name):
    with pytest.raises(WeightsError, match="owner/name"):
        fetch(name)
    assert remote.asked == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architectures": ["TimesformerModel"], "model_type": "timesformer"}, "TimesformerModel"),
        ({"architecture": "vit_base_patch16_224"}, "vit_base_patch16_224"),
        ({"hidden": 3}, "a model of another library"),
        ([1], "a model of another library"),
        ({"format": 99, "architecture": "x", "settings": {}, "input": {}}, "format 99"),
    ],
)
def test_another_kind_of_model_is_named_before_its_weights_are_downloaded(remote, config, told):
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": b"weights"}
    remote.repository("lab/other", files)
    with pytest.raises(WeightsError, match=told):
        fetch("lab/other")
    assert [file for _, file in remote.downloads()] == ["config.json"]


def test_a_repository_without_a_configuration_or_weights_is_no_model(remote, folder):
    remote.repository("lab/empty", {"README.md": b"# Nothing"})
    with pytest.raises(WeightsError, match=r"no model folder .*config\.json"):
        fetch("lab/empty")
    files = contents(folder)
    del files["model.safetensors"]
    remote.repository("lab/part", files)
    with pytest.raises(WeightsError, match=r"no model folder .*model\.safetensors"):
        fetch("lab/part")


def test_a_configuration_that_is_not_json_is_refused(remote, folder):
    remote.repository("lab/page", contents(folder) | {"config.json": b"<html>\xff"})
    with pytest.raises(WeightsError, match="not JSON"):
        fetch("lab/page")


def test_a_card_is_not_needed(remote, folder):
    files = contents(folder)
    del files["README.md"]
    remote.repository("lab/endo", files)
    assert same_weights(endofm.load(fetch("lab/endo")), endofm.load(folder))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_too_large_is_not_downloaded(remote, folder, file):
    remote.repository("lab/endo", contents(folder))
    remote.sizes[file] = 2**34
    with pytest.raises(WeightsError, match=f"{file} of 16384 MiB"):
        fetch("lab/endo")
    assert file not in [file for _, file in remote.downloads()]


def test_a_broken_connection_leaves_no_whole_file(remote, folder, monkeypatch):
    remote.repository("lab/endo", contents(folder))
    remote.cut.add("model.safetensors")
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    with pytest.raises(WeightsError, match="lab/endo"):
        fetch("lab/endo")
    remote.cut.clear()
    assert same_weights(endofm.load(fetch("lab/endo")), endofm.load(folder))
