"""Weights divided over two processes (FSDP 2 through accelerate; gloo, CPU) as whole on one."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import endofm
from pretrain.train import train
from tests.processes import finish, last_checkpoint, rows, run_to_the_end, start
from tests.small import small_recipe, write_corpus

PROGRAM = """
import json, os
from torch.distributed.tensor import DTensor
from endofm.tasks.pretraining.endofm import PretrainingStep
from pretrain.__main__ import main

real = PretrainingStep.__call__


def count(tensors):
    return [sum(t.to_local().numel() for t in tensors), sum(t.numel() for t in tensors)]


def call(self, batches, now):
    result = real(self, batches, now)
    moments = [state["exp_avg"] for state in self.optimizer.state.values()]
    held = {
        "processes": self.accelerator.num_processes,
        "student": count(list(self.core.student.parameters())),
        "teacher": count(list(self.core.teacher.parameters())),
        "moments": count(moments),
    }
    with open(os.environ["HELD"] + os.environ["RANK"], "w") as file:
        json.dump(held, file)
    if os.environ.get("BREAK") and now.trains_last_layer:
        os._exit(9)
    return result


PretrainingStep.__call__ = call
main()
"""


def divide(monkeypatch, tmp_path):
    """What `accelerate launch` sets for an `fsdp_config`, and a program that counts."""
    settings = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "CUDA_VISIBLE_DEVICES": "",
        "HELD": str(tmp_path / "held_"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    return script


def recipe(folder, out, batch_size, accumulate=1, save_every=100):
    manifest = folder / "corpus" / "manifest.csv"
    if not manifest.exists():
        write_corpus(manifest.parent, num_clips=8)
    config = small_recipe(manifest, folder / out, save_every=save_every, log_every=1)
    # the last layer is frozen for an epoch (2 steps), and gradients are clipped
    optim = replace(
        config.optim, batch_size=batch_size, accumulate=accumulate, epochs=2,
        clipping="per_tensor", clip_norm=0.5,
    )  # fmt: skip
    model = replace(config.model, drop_path=0.0)
    return replace(config, optim=optim, model=model)


def divided_state(out, folder):
    """The tensors of the last checkpoint, put together by torch's own tool."""
    parts = last_checkpoint(out) / "pytorch_model_fsdp_0"
    dcp_to_torch_save(parts, folder / "whole.pt")
    return torch.load(folder / "whole.pt", weights_only=True)["model"]


def test_divided_weights_train_and_export_like_whole_ones(tmp_path, monkeypatch):
    train(recipe(tmp_path, "one", batch_size=4))
    AcceleratorState._reset_state(True)
    script = divide(monkeypatch, tmp_path)
    two = recipe(tmp_path, "two", batch_size=1, accumulate=2)
    run_to_the_end("pretrain", two, world=2, script=script)

    held = [json.loads((tmp_path / f"held_{rank}").read_text()) for rank in (0, 1)]
    assert [one["processes"] for one in held] == [2, 2]
    for part in ("student", "teacher", "moments"):
        (first, whole), (second, _) = (one[part] for one in held)
        assert first + second == whole and max(first, second) < 0.55 * whole, part

    ones = load_file(last_checkpoint(tmp_path / "one") / "model.safetensors")
    twos = divided_state(tmp_path / "two", tmp_path)
    assert set(ones) == set(twos) and ones["center"].abs().max() > 1e-4
    for name, tensor in ones.items():
        if name.endswith("qkv.bias"):  # AdamW turns the rounding noise of its key third into steps
            tensor, twos[name] = (t.view(3, -1)[[0, 2]] for t in (tensor, twos[name]))
        torch.testing.assert_close(twos[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    clip = torch.randn(1, 3, 2, 32, 32)
    features = [endofm.load(tmp_path / out / "model")(clip) for out in ("one", "two")]
    torch.testing.assert_close(features[1], features[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_a_divided_run_goes_on_bit_for_bit(tmp_path, monkeypatch, kind):
    script = divide(monkeypatch, tmp_path)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", kind)
    whole, broken = (recipe(tmp_path, out, 2, save_every=1) for out in ("whole", "broken"))
    run_to_the_end("pretrain", whole, world=2, script=script)
    # in step 3: the checkpoint before has a last layer that was never trained
    monkeypatch.setenv("BREAK", "1")
    process = start("pretrain", broken, 2, script)
    finish(process)
    assert process.returncode != 0
    assert last_checkpoint(tmp_path / "broken").name == "step-00000002"
    monkeypatch.delenv("BREAK")
    told = run_to_the_end("pretrain", broken, 2, script)
    assert "Goes on from the checkpoint of step 2." in told
    one, two = (
        load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "broken")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [
        row["loss"] for row in rows(tmp_path / "broken")
    ]
