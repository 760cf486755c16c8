import math

import pytest
import torch
from torch.nn import functional as F

from endofm.losses.dino import centered_targets, dino_loss, koleo_loss, sinkhorn_targets


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_targets_are_the_softmax_of_centred_sharpened_logits():
    targets = centered_targets(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.5]]), 0.5)
    one, two = math.exp(1.0), math.exp(3.0)
    torch.testing.assert_close(targets, torch.tensor([[one, two]]) / (one + two))


def test_the_loss_of_two_globals_and_no_local_is_worked_out_by_hand():
    targets = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])  # two globals, one clip, two prototypes
    student = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    # pairs: teacher 0 with student 1: -log(3/4); teacher 1 with student 0: log 2
    expected = (math.log(4 / 3) + math.log(2)) / 2
    loss = dino_loss(student, targets, temperature=1.0)
    assert math.isclose(loss.total.item(), expected, rel_tol=1e-6)
    assert math.isclose(loss.cross_view.item(), expected, rel_tol=1e-6)
    assert loss.dynamic.item() == 0


def test_the_loss_equals_a_loop_over_all_pairs_but_the_same_view():
    student, teacher = logits(10, 3, 7).float(), logits(2, 3, 7, seed=1)
    targets = centered_targets(teacher, torch.zeros(1, 7), 0.04)
    terms = {"cross": [], "dynamic": []}
    for g in range(2):
        for v in range(10):
            if v != g:
                log_p = F.log_softmax(student[v] / 0.1, dim=-1)
                term = -(targets[g] * log_p).sum(-1).mean()
                terms["cross" if v < 2 else "dynamic"].append(term)
    assert (len(terms["cross"]), len(terms["dynamic"])) == (2, 16)
    loss = dino_loss(student, targets, 0.1)
    every = torch.stack(terms["cross"] + terms["dynamic"]).mean()
    torch.testing.assert_close(loss.total, every, rtol=1e-5, atol=0)
    for group, value in (("cross", loss.cross_view), ("dynamic", loss.dynamic)):
        torch.testing.assert_close(value, torch.stack(terms[group]).mean(), rtol=1e-5, atol=0)


def test_the_loss_is_least_where_the_student_equals_the_teacher():
    teacher = logits(2, 4, 6).float()
    targets = centered_targets(teacher[:1].expand(2, -1, -1), torch.zeros(1, 6), 0.1)
    same = dino_loss(teacher[:1].expand(5, -1, -1), targets, 0.1).total
    other = dino_loss(logits(5, 4, 6, seed=3), targets, 0.1).total
    entropy = -(targets * targets.log()).sum(-1).mean()
    assert torch.isclose(same, entropy, rtol=1e-4) and other > same


def test_sinkhorn_uses_all_prototypes_alike_and_gives_distributions():
    biased = logits(2, 12, 4).float() * 0.05
    biased[..., 0] += 1.0  # without balancing, every clip would take the first prototype
    targets = sinkhorn_targets(biased, 0.05, num_iterations=50)
    torch.testing.assert_close(targets.sum(-1), torch.ones(2, 12))
    torch.testing.assert_close(targets.sum(1), torch.full((2, 4), 3.0), rtol=1e-3, atol=1e-3)
    assert centered_targets(biased, torch.zeros(1, 4), 0.05)[..., 0].min() > 0.9


def test_sinkhorn_survives_large_logits():
    assert torch.isfinite(sinkhorn_targets(100 * logits(1, 3, 5).float(), 0.04)).all()


def test_koleo_is_worked_out_by_hand_and_pushes_neighbours_apart():
    angles = torch.tensor([0.0, 0.3, 2.0], requires_grad=True)
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * 5  # length does not matter
    distances = [2 * math.sin(0.15), 2 * math.sin(0.15), 2 * math.sin(0.85)]
    expected = -sum(math.log(d) for d in distances) / 3
    loss = koleo_loss(points)
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)
    loss.backward()
    assert angles.grad[0] > 0 > angles.grad[1]  # descent moves the close pair apart


@pytest.mark.parametrize("rows", [0, 1])
def test_koleo_of_a_single_clip_is_zero(rows):
    assert koleo_loss(torch.ones(rows, 3)).item() == 0
