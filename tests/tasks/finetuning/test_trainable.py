from dataclasses import replace
from pathlib import Path

import pytest
import torch

from endofm import files
from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.errors import ConfigError
from endofm.models.registry import create_model
from endofm.models.released_segmentation import (
    ReleasedSegmentationConfig,
    build_released_segmentation,
)
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.finetuned import build_task
from endofm.tasks.finetuning.trainable import (
    TuningConfig,
    parameter_groups,
    prepare_encoder,
    set_training_options,
    train_mode,
)
from endofm.training.finetuning import Selection, TuneSchedule, make_optimizer

SHOWING = ClipSpec("classification", ("a", "b"), LabelledConfig(label="x"), 2, 32)


def backbone(**settings):
    torch.manual_seed(0)
    made = dict(depth=3, patch_pixels=16, image_pixels=32, num_frames=2, width=24, num_heads=2)
    return create_model("timesformer_tiny", **{**made, **settings})


def task(**settings):
    # pooled patches: on the class token alone, an adapter before the last MLP has no effect
    return build_task(backbone(**settings), SHOWING, TaskConfig(head="mean"))


def expected(method, names):
    kept = {
        "full": lambda n: True,
        "head": lambda n: n.startswith("head."),
        "last_blocks": lambda n: n.startswith(("head.", "backbone.blocks.2.", "backbone.norm.")),
        "st_adapter": lambda n: n.startswith("head.") or ".adapters." in n,
        "lora": lambda n: n.startswith("head.") or ".lora_" in n,
    }[method]
    return {name for name in names if kept(name)}


@pytest.mark.parametrize("method", ["full", "head", "last_blocks", "st_adapter", "lora"])
def test_exactly_the_stated_parameters_move_and_the_others_stay_bit_identical(method):
    made = task()
    for block in made.encoder.blocks:  # starts at zero, where nothing before it would move
        torch.nn.init.normal_(block.temporal_fc.weight, std=0.1)
    tuning = TuningConfig(method=method, size=1 if method == "last_blocks" else 4)
    prepare_encoder(made.encoder, tuning)
    network = made.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = parameter_groups(network, made.encoder, 1.0)
    optimizer = make_optimizer("adamw", groups, 0.1)
    train_mode(network, made.encoder)
    for step in range(3):  # LoRA's and the adapters' outer matrices start at zero
        TuneSchedule(4, 2, 0.1, 0, 0.1).at(step).apply_to(optimizer)
        clip = torch.randn(4, 3, 2, 32, 32)
        network(clip, torch.tensor([0, 1, 0, 1])).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    names = [name for name, _ in network.named_parameters()]
    moved = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == expected(method, names)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == moved


def test_frozen_parts_are_in_evaluation_mode_and_what_trains_is_not():
    made = task(drop_path=0.5)
    prepare_encoder(made.encoder, TuningConfig(method="last_blocks", size=1))
    train_mode(made.network, made.encoder)
    modes = [block.drop_path.training for block in made.encoder.blocks]
    assert modes == [False, False, True] and made.network.head.training
    prepare_encoder(made.encoder, TuningConfig(method="head"))
    train_mode(made.network, made.encoder)
    assert not made.encoder.training and not made.encoder.blocks[2].drop_path.training


def test_layers_further_from_the_head_learn_more_slowly():
    made = task()
    groups = parameter_groups(made.network, made.encoder, 0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    encoder, head = made.encoder, made.network.head
    assert scales[id(head.linear.weight)] == scales[id(encoder.norm.weight)] == 1
    by_block = [scales[id(block.attn.qkv.weight)] for block in encoder.blocks]
    assert by_block == [0.125, 0.25, 0.5] and scales[id(encoder.pos_embed)] == 0.0625
    decays = {id(p): group["decays"] for group in groups for p in group["params"]}
    assert decays[id(head.linear.weight)] and not decays[id(head.linear.bias)]
    assert len(decays) == len(list(made.network.parameters()))
    optimizer = make_optimizer("sgd", groups, 0.1)
    TuneSchedule(10, 5, 1.0, 0, 0.1).at(0).apply_to(optimizer)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}


def test_the_released_model_is_tuned_by_its_encoder_and_takes_no_adapters():
    settings = ReleasedSegmentationConfig(
        width=24, depth=2, num_heads=2, stem_depths=(1, 1, 1), image_pixels=32
    )
    clip_spec = replace(SHOWING, kind="segmentation", classes=("background", "polyp"))
    made = build_task(
        build_released_segmentation(settings), clip_spec, TaskConfig(kind="segmentation")
    )
    prepare_encoder(made.encoder, TuningConfig(method="head"))
    trained = {n.split(".")[1] for n, p in made.network.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "head"}
    with pytest.raises(ConfigError, match="plain video transformers"):
        prepare_encoder(made.encoder, TuningConfig(method="lora"))


def test_options_of_training_reach_a_loaded_backbone():
    encoder = backbone(drop_path=0.0)
    set_training_options(encoder, 0.3, gradient_checkpointing=True)
    assert [block.drop_path.drop_prob for block in encoder.blocks] == [0, 0.15, 0.3]
    assert encoder.config.gradient_checkpointing
    with pytest.raises(ConfigError, match="3 blocks; give fewer"):
        prepare_encoder(encoder, TuningConfig(method="last_blocks", size=4))


def test_the_best_weights_are_kept_and_waiting_ends(tmp_path: Path):
    network = torch.nn.Linear(2, 1)
    selection = Selection(tmp_path / "best.safetensors", patience=2, is_main=True)
    told = []
    for step, score in enumerate([0.2, 0.5, float("nan"), 0.5], 1):
        torch.nn.init.constant_(network.weight, step)
        told.append(selection.update(step, score, network))
    assert told == [True, True, False, False] and selection.is_over
    selection.load_best(network)
    assert network.weight.tolist() == [[2, 2]]
    other = Selection(tmp_path / "best.safetensors", patience=2, is_main=True)
    other.load_state_dict(selection.state_dict())
    assert (other.best, other.best_step, other.is_over) == (0.5, 2, True)


def test_the_best_weights_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch):
    file, flushed = tmp_path / "best.safetensors", []
    monkeypatch.setattr(
        files, "flush", lambda path: flushed.append((path.name, path.exists(), file.exists()))
    )
    Selection(file, patience=0, is_main=True).update(1, 0.5, torch.nn.Linear(2, 1))
    assert flushed == [("best.safetensors.part", True, False), (tmp_path.name, True, True)]


def test_the_schedule_rises_and_falls_and_the_released_one_is_a_power():
    rates = [TuneSchedule(10, 5, 1.0, 2, 0.0).at(step).learning_rate for step in range(10)]
    assert rates[0] == pytest.approx(1 / 3) and rates[2] == 1 and rates[9] < 0.1
    assert all(rate > 0 for rate in rates)
    poly = [TuneSchedule(10, 5, 1.0, 2, 0.0, is_poly=True).at(s).learning_rate for s in (0, 5)]
    assert poly == [1.0, pytest.approx(0.5**0.9)]
