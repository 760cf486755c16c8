import copy

import pytest
import torch

from endofm.data.pretraining.views import ViewsConfig
from endofm.errors import ConfigError
from endofm.heads.projection import ProjectionHead
from endofm.models.build import ModelConfig
from endofm.models.registry import create_model
from endofm.tasks.pretraining.endofm import ObjectiveConfig, PretrainingTask, build_task
from endofm.training.optim import adamw

SHAPES = [(2, 32), (4, 32), (2, 16), (2, 16), (4, 16)]


def make_task(**objective):
    torch.manual_seed(0)
    drop_path = objective.pop("drop_path", 0.0)
    in_teacher = objective.pop("teacher_drops_paths", False)
    backbone = create_model(
        "timesformer_tiny", depth=2, patch_pixels=8, image_pixels=32, drop_path=drop_path
    )
    head = ProjectionHead(192, num_prototypes=32, hidden=64, bottleneck=16)
    return PretrainingTask(backbone, head, ObjectiveConfig(prototypes=32, **objective), in_teacher)


def make_views(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, t, p, p, generator=generator) for t, p in SHAPES]


def test_views_of_equal_shape_pass_together_and_come_out_in_order():
    task = make_task().eval()
    views = make_views(2)
    features, logits = task.student(views)
    assert features.shape == (5, 2, 192) and logits.shape == (5, 2, 32)
    for number, view in enumerate(views):
        alone = task.student.backbone(view)
        torch.testing.assert_close(features[number], alone, rtol=1e-4, atol=1e-5)


def test_only_the_student_learns_and_the_teacher_follows_it():
    task = make_task()
    optimizer = adamw(task)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    before = copy.deepcopy(task.teacher.state_dict())
    task(make_views(2), 2, 0.04).total.backward()
    assert all(p.grad is None for p in task.teacher.parameters())
    optimizer.step()
    task.finish_step(momentum=0.9)
    student = task.student.state_dict()
    for name, now in task.teacher.state_dict().items():
        torch.testing.assert_close(now, 0.9 * before[name] + 0.1 * student[name])
    assert not torch.equal(student["backbone.cls_token"], before["backbone.cls_token"])


def test_the_centre_moves_by_the_mean_output_of_the_whole_step():
    task = make_task()
    halves = [make_views(2, seed) for seed in (1, 2)]
    whole = [torch.cat(pair) for pair in zip(*halves, strict=True)]
    other = copy.deepcopy(task)
    for half in halves:
        task(half, 2, 0.04)
    task.finish_step(1.0)
    other(whole, 2, 0.04)
    other.finish_step(1.0)
    torch.testing.assert_close(task.center, other.center)
    logits = task.teacher(whole[:2])[1]
    torch.testing.assert_close(task.center, 0.1 * logits.mean((0, 1))[None], rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_equal_those_of_the_large_batch():
    task = make_task()
    halves = [make_views(2, seed) for seed in (1, 2)]
    other = copy.deepcopy(task)
    for half in halves:
        (task(half, 2, 0.04).total / 2).backward()
    other([torch.cat(pair) for pair in zip(*halves, strict=True)], 2, 0.04).total.backward()
    for one, two in zip(task.student.parameters(), other.student.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-6)


def test_a_forgotten_step_leaves_the_centre_alone():
    task = make_task()
    task(make_views(2, 1), 2, 0.04)
    task.forget_step()
    other = make_task()
    for one in (task, other):
        one(make_views(2, 2), 2, 0.04)
        one.finish_step(1.0)
    assert torch.equal(task.center, other.center)


@pytest.mark.parametrize("is_random", [False, True])
def test_drop_path_acts_in_the_teacher_only_where_it_is_told_to(is_random):
    task = make_task(teacher_drops_paths=is_random, drop_path=0.5)
    views = make_views(4)
    one, two = (task(views, 2, 0.04).features for _ in range(2))
    assert torch.equal(one, two) is not is_random
    assert not task.eval().teacher.training


@pytest.mark.parametrize(("quirks", "drops"), [("none", False), ("released", True)])
def test_a_task_follows_the_views_in_its_quirks_and_its_time_embedding(quirks, drops):
    views = ViewsConfig((4, 2), (2,), global_pixels=32, local_pixels=16, quirks=quirks)
    model = ModelConfig(name="timesformer_mini", patch_pixels=8)
    task, _ = build_task(model, views, ObjectiveConfig(prototypes=32, kind="endofm_small"))
    assert task.teacher.training is drops and task.student.training
    assert task.student.backbone.config.num_frames == 4


def test_the_frozen_last_layer_has_no_update_no_decay_and_no_state():
    task = make_task()
    optimizer = adamw(task)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before = task.student.head.last_layer.weight_v.clone()
    task(make_views(2), 2, 0.04).total.backward()
    task.drop_last_layer_gradient()
    optimizer.step()
    assert torch.equal(task.student.head.last_layer.weight_v, before)
    assert task.student.head.last_layer.weight_v not in optimizer.state


def test_koleo_and_sinkhorn_change_the_loss_and_reach_the_student():
    plain = make_task()(make_views(3), 2, 0.04)
    koleo = make_task(koleo_weight=0.5)(make_views(3), 2, 0.04)
    torch.testing.assert_close(koleo.total, plain.total + 0.5 * koleo.koleo)
    assert koleo.koleo != 0 and plain.koleo == 0
    task = make_task(centering="sinkhorn")
    sinkhorn = task(make_views(3), 2, 0.04)
    assert abs(sinkhorn.total - plain.total) > 1e-3
    sinkhorn.total.backward()
    assert task.student.backbone.cls_token.grad.norm() > 0


@pytest.mark.parametrize(
    "changes",
    [{"prototypes": 1}, {"teacher_temperature": (0.0, 0.1)}, {"teacher_momentum": 1.5},
     {"koleo_weight": -1.0}],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(ConfigError, match=r"objective\."):
        ObjectiveConfig(**changes)
