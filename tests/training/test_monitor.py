import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from rich.progress import Progress

from endofm.training.log import Pending, RunLog
from endofm.training.monitor import Health, Monitor, entropy, rankme


@dataclass
class Watched:
    features: torch.Tensor
    target_entropy: torch.Tensor
    target_mean: torch.Tensor


def health_of(features, targets):
    monitor = Monitor(targets.shape[-1])
    monitor.update([Watched(features, entropy(targets).mean(), targets.mean(0))])
    return monitor.health()


def healthy_targets(rows, prototypes):
    return torch.softmax(torch.randn(rows, prototypes) * 3, dim=-1)


def test_rankme_counts_the_directions_that_features_use():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64))[0]
    for rank in (1, 5, 40):
        rows = torch.eye(rank).repeat(3, 1)[: 3 * rank] @ basis[:rank]
        assert rankme(rows) == pytest.approx(rank, rel=0.02)


def test_features_spread_over_the_sphere_raise_no_warning():
    torch.manual_seed(0)
    health = health_of(torch.randn(256, 32), healthy_targets(256, 50))
    assert health.warnings() == []
    assert health.feature_std == pytest.approx(1, abs=0.05) and health.rankme > 25


def test_features_that_are_all_the_same_are_called_a_collapse():
    torch.manual_seed(0)
    features = torch.randn(1, 32) + 0.001 * torch.randn(256, 32)
    health = health_of(features, healthy_targets(256, 50))
    assert len(health.warnings()) == 1 and "collapsed" in health.warnings()[0]


def test_uniform_targets_and_a_single_prototype_are_told_apart():
    torch.manual_seed(0)
    features = torch.randn(256, 32)
    uniform = health_of(features, torch.full((256, 50), 1 / 50))
    assert len(uniform.warnings()) == 1 and "uniform" in uniform.warnings()[0]
    single = health_of(features, torch.eye(50)[[3] * 256])
    assert len(single.warnings()) == 1 and "single prototype" in single.warnings()[0]
    assert uniform.teacher_entropy == pytest.approx(1) and single.teacher_entropy == 0


def test_the_monitor_says_nothing_before_it_has_seen_enough_and_forgets_what_is_old():
    monitor = Monitor(10, num_rows=100)
    for step in range(20):
        targets = healthy_targets(16, 10)
        features = torch.zeros(16, 4) if step < 5 else torch.randn(16, 4)
        monitor.update([Watched(features, entropy(targets).mean(), targets.mean(0))])
        assert (monitor.health() is None) == (step < 3)
    assert 100 <= sum(map(len, monitor.features)) < 132
    assert monitor.health().rankme > 3


def test_entropy_is_in_nats_and_survives_zeros():
    assert entropy(torch.tensor([0.5, 0.5, 0.0])).item() == pytest.approx(math.log(2))
    assert isinstance(Health(0.5, 0.5, 1.0, 9.0).warnings(), list)


def test_what_is_remembered_of_a_step_is_not_read_from_the_device():
    monitor = Monitor(10)
    log = RunLog.__new__(RunLog)
    log.pending, log.progress = Pending(), Progress(disable=True)
    log.bar = log.progress.add_task("", total=9)
    batch = SimpleNamespace(names=["a"], broken=[])
    for step in range(9):
        with torch.device("meta"):  # reading a value of such a tensor raises
            features, scalar, mean = torch.ones(4, 8), torch.ones(()), torch.ones(10)
        monitor.update([Watched(features, scalar, mean)])
        log.update(step, {"loss": scalar}, [batch], waited=0.1)
    assert log.pending.steps == list(range(9)) and len(monitor.features) == 9
    with pytest.raises(RuntimeError):
        float(log.pending.values[0].sum())
