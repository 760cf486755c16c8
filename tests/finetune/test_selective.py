"""Selective sampling through the program: STFM and a transformer, killed, in many processes."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from endofm.config import to_yaml
from endofm.data.labelled import selective
from endofm.errors import ConfigError
from endofm.models.frame_cnn import frame_cnn
from endofm.tasks.finetuning import selecting
from endofm.tasks.finetuning.finetuned import load_finetuned
from endofm.tasks.finetuning.starting import ModelOptions, find_start
from endofm.training.checkpoint import Checkpoints
from finetune.__main__ import main
from finetune.evaluate import Evaluate, evaluate
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled
from tests.processes import run_to_the_end

STFM = ModelOptions(name="stfm_test_resnet")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("corpus"), 16, num_frames=9)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three frames, chosen by the bank from the second epoch on."""
    monkeypatch.setattr(selective, "SLOT_FRAMES", 3)
    monkeypatch.setattr(selective, "RANDOM_EPOCHS", 1)


def recipe(manifest, out, **changes):
    selected = dict(head="evidential", segments="most_certain", stride=1, epochs=3, batch_size=2)
    return small_finetune(manifest, out, **selected | changes)


def last(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def certainties(folder):
    """The bank in a run's last checkpoint."""
    return torch.load(last(folder) / "custom_checkpoint_1.pkl", weights_only=True)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_with_the_bank_it_had(
    manifest, tmp_path, monkeypatch, small_parts
):
    finetune(recipe(manifest, tmp_path / "whole", workers=2))
    save = Checkpoints.save

    def die_after_the_first(self, step):
        save(self, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", die_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe(manifest, tmp_path / "broken", workers=2))
    monkeypatch.setattr(Checkpoints, "save", save)
    finetune(recipe(manifest, tmp_path / "broken", workers=2))
    whole, broken = (tmp_path / name / "seed_0" for name in ("whole", "broken"))
    one, two = (load_file(last(folder) / "model.safetensors") for folder in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    bank, again = certainties(whole), certainties(broken)
    assert bank["steps"] == 12 and torch.equal(bank["values"], again["values"])
    assert bank["recent"] == again["recent"] and (bank["values"] != selective.START).any()
    told = [json.loads((f / "metrics.json").read_text())["metrics"] for f in (whole, broken)]
    assert told[0] == told[1]


def test_stfm_trains_selectively_and_its_model_comes_back(manifest, tmp_path, small_parts):
    config = recipe(manifest, tmp_path / "run", pixels=64, frames=2, epochs=1, test_views=(2, 1))
    out = finetune(replace(config, model=STFM)) / "seed_0"
    loaded = load_finetuned(out / "model")
    assert loaded.config.head == "evidential" and type(loaded.task.encoder).__name__ == "STFM"
    told = json.loads((out / "metrics.json").read_text())
    assert told["weights"] == {"source": "random weights of stfm_test_resnet"}
    assert certainties(out)["steps"] == 4


@pytest.mark.slow
def test_eight_clips_are_learned_by_heart_by_their_evidence(tmp_path, small_parts):
    # Chosen by the same pictures under other names: four clips would soon be right by chance.
    parts = {"corpus": ("train", "train"), "again": ("val", "val")}
    manifests = tuple(
        write_labelled(tmp_path / n, 12, num_frames=9, splits=s, size=(64, 64), prefix=n)
        for n, s in parts.items()
    )
    config = recipe(
        manifests[0], tmp_path / "run", manifests=manifests, pixels=64, frames=2, epochs=30,
        batch_size=4, lr_per_256=0.1, test_views=(3, 1), **PLAIN,
    )  # fmt: skip
    out = finetune(replace(config, model=STFM))
    AcceleratorState._reset_state(True)
    figures = evaluate(Evaluate(out, manifests[0], split="train", workers=0))
    assert figures.values["accuracy"].value > 0.9


def test_a_networks_cnn_may_start_from_timms_weights(monkeypatch):
    real = timm.create_model

    def create(name, pretrained=False):  # nothing is downloaded
        if pretrained:
            torch.manual_seed(77)
        return real(name.split(".")[0])

    monkeypatch.setattr(timm, "create_model", create)
    options = ModelOptions(name="stfm_test_resnet")
    start = find_start("timm:test_resnet.r160_in1k", options, frames=3, pixels=64)
    torch.manual_seed(77)
    stem = frame_cnn("test_resnet").stem.state_dict()
    assert all(torch.equal(t, stem[n]) for n, t in start.encoder.stem.state_dict().items())
    assert (start.frames, start.pixels) == (3, 64) and "random stfm_test_resnet" in start.told
    vipttnet = find_start("timm:test_resnet", ModelOptions(name="vipttnet_mini"))
    assert type(vipttnet.encoder).__name__ == "ViPTTNet"


def test_the_plan_says_which_parts_and_how_much_memory(manifest, tmp_path, capsys):
    config = replace(recipe(manifest, tmp_path / "run", pixels=64), model=STFM)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    main(["--config", str(file), "--explain"])
    told = capsys.readouterr().out
    assert "in parts of 20 frames (most_certain); crops of" in told and "GiB a step" in told


def test_certainties_of_all_processes_come_in_the_order_of_positions(monkeypatch):
    """Two processes with two micro-batches of one clip each: positions 0 and 2, 1 and 3."""
    parts = [[[(0, 0.0)], [(2, 0.2)]], [[(1, 0.1)], [(3, 0.3)]]]
    monkeypatch.setattr(selecting, "gather_objects", lambda own: parts)
    learned = []

    class Bank:
        learn = staticmethod(learned.append)

    selecting.Certainty(Bank(), None)([], [])
    assert learned == [[(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(head="default"), "goes by the uncertainty of an evidential head"),
        (dict(kind="segmentation", head="default"), "training clips of a classification"),
        (dict(head="default", method="linear_probe"), "there are none here"),
        (dict(every_frames=2), r"no data\.every_frames"),
        (dict(stride=0), "give a stride of 1 or more"),
    ],
)
def test_what_can_not_be_selected_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        recipe(tmp_path / "m.csv", tmp_path / "out", **changes)


@pytest.mark.slow
def test_two_processes_choose_what_one_chooses(manifest, tmp_path):
    """Epochs are random at first: ten of them, so that the bank decides in the last five."""
    whole = recipe(manifest, tmp_path / "one", epochs=10, accumulate=2, lr_per_256=1e-3)
    finetune(whole)
    AcceleratorState._reset_state(True)
    half = replace(
        whole,
        optim=replace(whole.optim, accumulate=1),
        run=replace(whole.run, out=tmp_path / "two"),
    )
    run_to_the_end("finetune", half, world=2)
    one, two = (certainties(tmp_path / name / "seed_0") for name in ("one", "two"))
    assert one["steps"] == two["steps"] == 20
    torch.testing.assert_close(two["values"], one["values"], rtol=1e-3, atol=1e-4)
