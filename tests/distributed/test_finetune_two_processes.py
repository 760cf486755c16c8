"""Fine-tuning on two processes (gloo, CPU) as on one: weights, figures, and every sample once."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from endofm.training.finetuning import Selection
from finetune.train import finetune
from tests.labelled import small_finetune, write_labelled
from tests.processes import rows, run_to_the_end


@pytest.mark.parametrize(
    "kind", ["segmentation", pytest.param("classification", marks=pytest.mark.slow)]
)
def test_two_processes_find_what_one_finds(tmp_path, kind):
    manifest = write_labelled(tmp_path / "corpus", 22, splits=("train", "train", "val"))
    # odd numbers of test pieces: the two processes have unequal parts
    whole = small_finetune(
        manifest, tmp_path / "one", kind=kind, epochs=1, batch_size=2, accumulate=2
    )
    finetune(whole)
    AcceleratorState._reset_state(True)
    half = replace(
        whole,
        optim=replace(whole.optim, accumulate=1),
        run=replace(whole.run, out=tmp_path / "two"),
    )
    run_to_the_end("finetune", half, 2)
    folders = [tmp_path / name / "seed_0" for name in ("one", "two")]
    assert list((folders[1] / "checkpoints").glob("*/random_states_1.pkl"))  # two, not one
    one, two = (load_file(folder / "best.safetensors") for folder in folders)
    for name, tensor in one.items():
        if name.endswith("qkv.bias"):  # AdamW turns the rounding noise of its key third into steps
            tensor, two[name] = (t.view(3, -1)[[0, 2]] for t in (tensor, two[name]))
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    tables = [list(csv.DictReader((folder / "samples.csv").open())) for folder in folders]
    assert len(tables[0]) == len(tables[1]) > 0
    key = "sample" if kind == "classification" else "sequence"
    assert [row[key] for row in tables[0]] == [row[key] for row in tables[1]]
    metrics = [json.loads((f / "metrics.json").read_text())["metrics"] for f in folders]
    for name, told in metrics[0].items():
        if told["value"] is not None:
            assert metrics[1][name]["value"] == pytest.approx(told["value"], abs=2e-3), name


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, monkeypatch):
    manifest = write_labelled(tmp_path / "corpus", 16)
    whole = small_finetune(manifest, tmp_path / "whole", epochs=2, log_every=1)
    finetune(whole)
    moved = replace(whole, run=replace(whole.run, out=tmp_path / "moved"))

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Selection, "update", die)  # in the first validation
        with pytest.raises(KeyboardInterrupt):
            finetune(moved)
    AcceleratorState._reset_state(True)
    half = replace(moved, optim=replace(moved.optim, batch_size=1))
    assert "starts at step 4 of 8" in run_to_the_end("finetune", half, 2)
    folders = [config.run.out / "seed_0" for config in (whole, moved)]
    assert list((folders[1] / "checkpoints").glob("*/random_states_1.pkl"))
    names = ("loss", "val/macro_f1")
    told = [[(r["step"], n, r[n]) for r in rows(f) for n in names if n in r] for f in folders]
    assert told[1] == [(step, name, pytest.approx(v, rel=1e-4)) for step, name, v in told[0]]
    chosen = [json.loads((f / "metrics.json").read_text())["chosen"] for f in folders]
    assert chosen[0] == chosen[1]
