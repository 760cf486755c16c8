import math

import pytest
import torch
from torch.nn import functional as F

from endofm.losses.vcl import alignment, diversity, fidelity, local_contrast


def test_diversity_is_the_mean_squared_cosine_between_different_concepts():
    concepts = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    # pairs: at right angles 0, and 45 degrees twice: 1/2 each
    assert math.isclose(diversity(concepts).item(), (0 + 0.5 + 0.5) / 3, rel_tol=1e-6)
    assert diversity(torch.eye(4)).item() == 0


def test_fidelity_is_zero_where_an_embedding_is_its_concept():
    concepts = torch.eye(3)
    sure = 100 * torch.eye(3)
    assert fidelity(concepts, sure, concepts).item() < 1e-6
    # half of each of two concepts: the sum lies at 45 degrees from either
    even = torch.tensor([[5.0, 5.0, -100.0]])
    found = fidelity(concepts[:1], even, concepts).item()
    assert math.isclose(found, 1 - math.sqrt(0.5), rel_tol=1e-5)


def test_alignment_is_least_for_equal_views_and_gradients_reach_both():
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    other = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = alignment(scores, other)
    loss.backward()
    assert scores.grad.abs().sum() > 0 and other.grad.abs().sum() > 0
    assert alignment(scores, scores) < loss


def test_alignment_does_not_reward_one_concept_for_all_clips():
    different = torch.eye(4)
    collapsed = torch.tensor([[1.0, -1.0, -1.0, -1.0]]).expand(4, -1)
    assert alignment(different, different) < 0.1
    assert math.isclose(alignment(different * 0, different * 0).item(), math.log(4), rel_tol=1e-4)
    assert alignment(collapsed, collapsed) > math.log(4)


def test_the_local_contrast_is_worked_out_by_hand_and_leaves_idle_concepts_out():
    # two clips, three concepts, the first idle in both and pointing to the wrong clip
    local = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]]
    )
    other = local.clone()
    other[:, 0] = local[:, 0].flip(0)
    active = torch.tensor([[-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    # own clip at cosine 1, the other at 0, temperature 0.1
    expected = math.log(1 + math.exp(-10))
    found = local_contrast(local, other, active, active, num_kept=2).item()
    assert math.isclose(found, expected, rel_tol=1e-2)
    assert local_contrast(local, other, active, active, num_kept=3).item() > 3


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_local_contrast_does_not_depend_on_lengths(scale):
    draw = torch.Generator().manual_seed(0)
    local, other = (torch.randn(4, 3, 5, generator=draw) for _ in range(2))
    scores = F.normalize(torch.randn(4, 3, generator=draw))
    plain = local_contrast(local, other, scores, scores, 2)
    torch.testing.assert_close(local_contrast(scale * local, other, scores, scores, 2), plain)
