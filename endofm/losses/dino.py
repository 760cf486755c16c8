"""Self-distillation between views of a clip (DINO), as Endo-FM uses it.

Caron et al.: Emerging Properties in Self-Supervised Vision Transformers (ICCV 2021), with the two
groups of Endo-FM (MICCAI 2023, section 2): cross-view matching (global to global) and dynamic
matching (local to global). V views, the first G of them global; B clips; K prototypes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from endofm.processes import join_over_processes, num_processes, sum_over_processes


class DinoLoss(NamedTuple):
    """Scalars: the mean over all pairs, and the means over the two groups (zero if a group is
    empty).
    """

    total: Tensor
    cross_view: Tensor
    dynamic: Tensor


def centered_targets(teacher_logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """What the student must match: softmax((t - centre) / temperature), [..., K]."""
    return F.softmax((teacher_logits.float() - center) / temperature, dim=-1)


@torch.no_grad()
def sinkhorn_targets(teacher_logits: Tensor, temperature: float, num_iterations: int = 3) -> Tensor:
    """Targets [G, B, K] by Sinkhorn-Knopp instead of a centre (SwAV; DINOv2, section 4).

    Rows and columns are normalised in turn over the clips of all processes, so that the prototypes
    are used alike. Computed for each global view apart.
    """
    scores = teacher_logits.float() / temperature
    highest = scores.amax(dim=(1, 2), keepdim=True)
    if num_processes() > 1:  # one scale everywhere, or the column sums would not add up
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    plan = (scores - highest).exp()  # [G, B, K]
    clips, prototypes = plan.shape[1] * num_processes(), plan.shape[2]
    for _ in range(num_iterations):
        column = sum_over_processes(plan.sum(dim=1, keepdim=True)).clamp_min(1e-30)
        plan = plan / column / prototypes
        plan = plan / plan.sum(dim=2, keepdim=True).clamp_min(1e-30) / clips
    return plan * clips


def dino_loss(student_logits: Tensor, targets: Tensor, temperature: float) -> DinoLoss:
    """Cross-entropy of every (teacher global, student view) pair that is not the same view.

    `student_logits` [V, B, K], `targets` [G, B, K]. G V - G terms, each a mean over the clips, then
    averaged with equal weight: 18 for two global and eight local views.
    """
    log_probabilities = F.log_softmax(student_logits.float() / temperature, dim=-1)
    num_global, num_clips = targets.shape[:2]
    pairs = -torch.einsum("gbk,vbk->gv", targets, log_probabilities) / num_clips  # [G, V]
    cross = pairs[:, :num_global]
    off_diagonal = cross.sum() - cross.diagonal().sum()
    local = pairs[:, num_global:].sum()
    num_cross, num_dynamic = num_global * (num_global - 1), pairs[:, num_global:].numel()
    return DinoLoss(
        total=(off_diagonal + local) / (num_cross + num_dynamic),
        cross_view=(off_diagonal / max(num_cross, 1)).detach(),
        dynamic=(local / max(num_dynamic, 1)).detach(),
    )


def koleo_loss(features: Tensor) -> Tensor:
    """Kozachenko-Leonenko regulariser: spreads the features [B, D] of a batch on the sphere.

    Minus the mean logarithm of the distance to the nearest neighbour, after L2 normalisation
    (Sablayrolles et al., ICLR 2019; DINOv2, section 4). The batch is that of all processes, on each
    of them. Zero for a single clip.
    """
    features = join_over_processes(features)
    if len(features) < 2:
        return features.sum() * 0
    unit = F.normalize(features.float(), dim=-1)
    with torch.no_grad():
        similarity = unit @ unit.T
        nearest = similarity.fill_diagonal_(-2).argmax(dim=1)
    distance = (unit - unit[nearest]).norm(dim=1)
    return -torch.log(distance + 1e-8).mean()
