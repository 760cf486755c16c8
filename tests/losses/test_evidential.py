"""Evidential losses and what is read from evidence, by hand-worked numbers."""

import math

import pytest
import torch

from endofm.errors import ConfigError
from endofm.losses.evidential import EvidentialLoss, divergence_from_uniform, fuse

FORMS = ["relaxed", "squared", "log", "digamma"]


def scores_of(evidence):
    """Scores whose softplus is the evidence."""
    return torch.tensor(evidence).expm1().log()


def test_the_relaxed_loss_is_the_squared_error_of_its_shares():
    """Evidence (2.2, 0.2) is alpha (3, 1) with the prior 0.8: shares 3/4 and 1/4.

    With l1 = 1/2: 3 / (2.2 + 0.1 + 1.6) and 1 / (0.2 + 1.1 + 1.6).
    """
    scores = scores_of([[2.2, 0.2]])
    even = EvidentialLoss("relaxed")
    assert even(scores, torch.tensor([0])).item() == pytest.approx(1 / 16 + 1 / 16)
    assert even(scores, torch.tensor([1])).item() == pytest.approx(9 / 16 + 9 / 16)
    half = EvidentialLoss("relaxed", others=0.5)
    expected = (1 - 3 / 3.9) ** 2 + (1 / 2.9) ** 2
    assert half(scores, torch.tensor([0])).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # alpha (3, 1), S = 4: errors 1/16 twice, variances (3/16) / 5 twice
        ("squared", 2 / 16 + 2 * 3 / 16 / 5),
        ("log", math.log(4) - math.log(3)),
        ("digamma", 1 / 3),  # psi(4) - psi(3)
    ],
)
def test_the_classic_losses_are_those_of_the_paper(form, expected):
    loss = EvidentialLoss(form)
    scores = scores_of([[2.0, 1e-7]])
    assert loss(scores, torch.tensor([0])).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", FORMS[1:])
def test_evidence_for_wrong_classes_is_drawn_to_none_more_and_more(form):
    """Of alpha (3, 1) and class 1 the misleading part is (3, 1): ln 3 - 2/3 from uniform.

    ln Gamma(4) - ln Gamma(2) - ln Gamma(3) = ln 3; 2 (psi(3) - psi(4)) = -2/3.
    """
    loss, scores, truth = EvidentialLoss(form), scores_of([[2.0, 1e-7]]), torch.tensor([1])
    told = []
    for epoch in (0, 2.5, 10, 400):
        loss.anneal(epoch)
        told.append(loss(scores, truth).item())
    full = math.log(3) - 2 / 3
    added = [value - told[0] for value in told]
    assert added == pytest.approx([0, full / 4, full, full], abs=1e-5)
    right = [loss(scores, torch.tensor([0])).item()]
    loss.anneal(0)
    assert right == pytest.approx([loss(scores, torch.tensor([0])).item()], abs=1e-5)


def test_the_divergence_is_zero_at_uniform_and_nowhere_else():
    alphas = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.0, 0.5, 1.0]])
    told = divergence_from_uniform(alphas)
    assert told[0].item() == pytest.approx(0, abs=1e-6) and (told[1:] > 0.05).all()
    known = torch.distributions.Dirichlet(alphas)
    uniform = torch.distributions.Dirichlet(torch.ones(3))
    assert torch.allclose(told, torch.distributions.kl_divergence(known, uniform), atol=1e-5)


def test_alphas_give_probability_and_uncertainty():
    loss = EvidentialLoss("relaxed")
    alphas = loss.alphas(scores_of([[2.2, 0.2], [1e-7, 1e-7]]))
    assert torch.allclose(alphas, torch.tensor([[3.0, 1.0], [0.8, 0.8]]), atol=1e-5)
    assert loss.probabilities(alphas)[0].tolist() == pytest.approx([0.75, 0.25])
    assert loss.uncertainty(alphas).tolist() == pytest.approx([1.6 / 4, 1.0], abs=1e-5)


def test_fused_clips_are_the_sum_of_their_alphas_not_the_mean_of_their_shares():
    """A sure clip (9, 1) outvotes two unsure ones (1, 1.2): (11, 3.4), of which 0.76 is class 0."""
    loss = EvidentialLoss("relaxed")
    alphas = torch.tensor([[9.0, 1.0], [1.0, 1.2], [1.0, 1.2]])
    fused = fuse(alphas)
    assert fused.tolist() == pytest.approx([11, 3.4])
    assert loss.probabilities(fused)[0].item() == pytest.approx(11 / 14.4)
    assert loss.uncertainty(fused).item() == pytest.approx(1.6 / 14.4)
    mean = loss.probabilities(alphas).mean(dim=0)
    assert mean[0].item() == pytest.approx((0.9 + 2 / 2.2) / 3) and mean[0] < fused[0] / 14.4


@pytest.mark.parametrize("form", FORMS)
def test_class_weights_weigh_clips_as_in_cross_entropy(form):
    loss = EvidentialLoss(form)
    scores, truth = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([0, 1])
    one, two = loss.each(loss.alphas(scores), truth).tolist()
    weighted = loss(scores, truth, torch.tensor([1.0, 3.0])).item()
    assert weighted == pytest.approx((one + 3 * two) / 4)
    assert loss(scores, truth).item() == pytest.approx((one + two) / 2)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_down_the_gradient_moves_evidence_to_the_truth(form):
    loss = EvidentialLoss(form)
    loss.anneal(10)
    scores = torch.zeros(1, 3, requires_grad=True)
    loss(scores, torch.tensor([1])).backward()
    gradient = scores.grad[0]
    assert gradient[1] < 0 < gradient[0] and torch.isfinite(gradient).all()


def test_what_can_not_be_meant_is_refused():
    with pytest.raises(ConfigError, match="choose one of relaxed, squared, log, digamma"):
        EvidentialLoss("softmax")
    with pytest.raises(ConfigError, match="1 in any other form"):
        EvidentialLoss("log", others=0.5)
