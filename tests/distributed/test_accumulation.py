"""Gradient accumulation through the program: small batches in a row are one large batch."""

from dataclasses import replace

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from pretrain.train import train
from tests.processes import last_checkpoint, rows
from tests.small import small_recipe, write_corpus


def test_accumulated_batches_train_like_one_large_batch(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", num_clips=8)
    for name, batch_size, accumulate in (("large", 8, 1), ("accumulated", 2, 4)):
        config = small_recipe(manifest, tmp_path / name, log_every=1)
        optim = replace(
            config.optim, epochs=4, batch_size=batch_size, accumulate=accumulate,
            freeze_last_layer_epochs=0,
        )  # fmt: skip
        model = replace(config.model, drop_path=0.0)
        train(replace(config, optim=optim, model=model))
        AcceleratorState._reset_state(True)
    large, accumulated = (
        load_file(last_checkpoint(tmp_path / name) / "model.safetensors")
        for name in ("large", "accumulated")
    )
    assert len(rows(tmp_path / "large")) == len(rows(tmp_path / "accumulated")) == 4
    for name, tensor in large.items():
        if name.endswith("qkv.bias"):  # AdamW turns the rounding noise of its key third into steps
            tensor, accumulated[name] = (t.view(3, -1)[[0, 2]] for t in (tensor, accumulated[name]))
        torch.testing.assert_close(accumulated[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert large["center"].abs().max() > 1e-4
