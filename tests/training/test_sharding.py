import json
from dataclasses import replace

import pytest
import torch

from endofm.config import to_yaml
from endofm.errors import ConfigError, RunError
from endofm.training.sharding import local, num_shards, sharding_plugin, whole
from finetune.train import finetune
from pretrain.__main__ import main
from pretrain.plan import memory_needed
from pretrain.train import train
from tests.labelled import small_finetune
from tests.processes import last_checkpoint
from tests.small import small_recipe, write_corpus


def test_without_being_asked_weights_stay_whole(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert sharding_plugin() is None and num_shards() == 1
    tensor = torch.ones(2)
    assert local(tensor) is tensor and whole(tensor) is tensor


def test_a_configuration_of_accelerate_decides_how_weights_are_divided(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")  # accelerate launch's default
    monkeypatch.setenv("WORLD_SIZE", "4")
    plugin = sharding_plugin()
    assert plugin is not None and plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert not plugin.cpu_ram_efficient_loading and num_shards() == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
     ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "started alone"),
     ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
      "model.gradient_checkpointing"),
     ({"ACCELERATE_USE_DEEPSPEED": "true"}, "fsdp_config"),
     ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "fsdp_config")],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused_in_a_sentence(tmp_path, monkeypatch, settings, told):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    manifest = write_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=told):
        train(small_recipe(manifest, tmp_path / "run"))


def test_explain_tells_of_divided_weights_and_of_clips_that_are_compared(
    tmp_path, monkeypatch, capsys
):
    config = small_recipe(write_corpus(tmp_path / "corpus", 32), tmp_path / "run")
    config = replace(
        config,
        optim=replace(config.optim, batch_size=2, accumulate=3),
        objective=replace(config.objective, centering="sinkhorn"),
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(config))
    monkeypatch.setenv("WORLD_SIZE", "4")
    whole = memory_needed(config)[0]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert memory_needed(config)[0] < whole
    main(["--config", str(tmp_path / "recipe.yaml"), "--explain"])
    told = capsys.readouterr().out
    assert "24 clips a step = 2 x 3 accumulated x 4 processes" in told
    assert "8 clips of all processes (accumulation adds none): Sinkhorn-Knopp" in told
    assert "divided over 4 processes (FSDP 2)" in told


def test_fine_tuning_refuses_to_divide_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="unset ACCELERATE_USE_FSDP"):
        finetune(small_finetune(tmp_path / "manifest.csv", tmp_path / "run"))


def test_float16_without_a_gpu_is_refused(tmp_path):
    config = small_recipe(write_corpus(tmp_path / "corpus"), tmp_path / "run", precision="fp16")
    with pytest.raises(ConfigError, match="needs a GPU"):
        train(config)


def test_a_checkpoint_of_divided_weights_is_not_taken_for_whole_ones(tmp_path):
    config = small_recipe(write_corpus(tmp_path / "corpus"), tmp_path / "run")
    train(config)
    file = last_checkpoint(tmp_path / "run") / "whole.json"
    facts = json.loads(file.read_text())
    assert facts["weights"] == "whole"
    file.write_text(json.dumps({**facts, "weights": "sharded_state_dict"}))
    with pytest.raises(RunError, match="same FSDP settings"):
        train(config)
