import math

import pytest
import torch

from endofm.training.optim import adamw
from endofm.training.schedules import Schedules, cosine, linear, warmup_cosine

SCHEDULES = Schedules(
    steps=100, steps_per_epoch=10, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=11,
    weight_decay=(0.04, 0.4), teacher_momentum=0.9, teacher_temperature=(0.02, 0.08),
    teacher_temperature_epochs=4, freeze_last_layer_epochs=2,
)  # fmt: skip


def test_learning_rate_rises_in_a_line_and_falls_on_a_cosine():
    rates = [SCHEDULES.at(step).learning_rate for step in range(100)]
    assert rates[0] == 0 and rates[10] == 1.0 and math.isclose(rates[5], 0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert math.isclose(warmup_cosine(11 + 89 // 2, 100, 1.0, 0.1, 11), 0.55, abs_tol=0.01)
    assert 0.1 < rates[-1] < 0.101


def test_the_ends_of_every_schedule():
    first, last = SCHEDULES.at(0), SCHEDULES.at(99)
    assert math.isclose(first.weight_decay, 0.04) and math.isclose(
        last.weight_decay, 0.4, rel_tol=1e-3
    )
    assert first.teacher_momentum == pytest.approx(0.9) and 0.9999 < last.teacher_momentum < 1
    temperatures = [SCHEDULES.at(10 * epoch).teacher_temperature for epoch in range(6)]
    assert temperatures == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.08, 0.08])


def test_the_last_layer_rests_for_the_first_epochs():
    assert [SCHEDULES.at(step).trains_last_layer for step in (0, 19, 20, 99)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_one_step_and_no_warm_up_are_possible():
    assert linear(0, 1, 2.0, 3.0) == 2.0
    assert cosine(0, 0, 1.0, 0.0) == 0.0
    assert warmup_cosine(0, 1, 1.0, 0.0, 0) == 1.0


def test_decay_reaches_only_the_group_that_decays():
    optimizer = adamw(torch.nn.Linear(3, 3))
    for step in (0, 50):
        now = SCHEDULES.at(step)
        now.apply_to(optimizer)
        decayed, plain = optimizer.param_groups
        assert decayed["weight_decay"] == now.weight_decay and plain["weight_decay"] == 0
        assert decayed["lr"] == plain["lr"] == now.learning_rate
