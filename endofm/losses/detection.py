"""FCOS's losses: which point answers for which box, focal loss, GIoU and centre-ness.

Tian et al., FCOS (ICCV 2019; TPAMI 2020 for centre sampling): a point answers for a box if it lies
in the middle of it, and the box is of its level's size; of several boxes for the smallest.

Shapes: F frames, L points of all levels, N boxes of a frame, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CENTER_RADIUS = 1.5
"""How far from a box's centre a point may lie to answer for it, in strides."""


@dataclass(frozen=True)
class Points:
    """Where the cells of all levels lie."""

    centers: Tensor  # [L, 2] x, y in pixels
    strides: Tensor  # [L], pixels
    low: Tensor  # [L], pixels: a point answers for boxes whose farthest edge is farther than this
    high: Tensor  # [L], pixels: and at most this far


@dataclass(frozen=True)
class Assigned:
    """What each point has to say."""

    classes: Tensor  # int64 [..., L]; -1: background
    distances: Tensor  # [..., L, 4], to the left, top, right and bottom edge; 0 for the background


@dataclass
class DetectionLosses:
    """Scalars."""

    focal: Tensor
    giou: Tensor
    centerness: Tensor


def make_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[float], device: torch.device | None = None
) -> Points:
    """Points in the middle of the cells of levels of `sizes` (h, w), row by row.

    The levels share all box sizes: each takes edges from 4 to 8 of its strides away, the finest
    also nearer and the coarsest also farther ones. For strides 8 to 128 these are FCOS's ranges.
    """
    centers: list[Tensor] = []
    of_cells: list[Tensor] = []
    low: list[Tensor] = []
    high: list[Tensor] = []
    for number, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
        columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centers.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        near = 4 * stride if number else 0.0
        far = 8 * stride if number + 1 < len(sizes) else math.inf
        for values, value in ((of_cells, stride), (low, near), (high, far)):
            values.append(torch.full((height * width,), value, device=device))
    return Points(*(torch.cat(values) for values in (centers, of_cells, low, high)))


def assign(points: Points, boxes: Tensor, classes: Tensor) -> Assigned:
    """What each point has to say of `boxes` [N, 4] (x1, y1, x2, y2) with classes int64 [N]."""
    num_points = len(points.centers)
    if not len(boxes):
        background = classes.new_full((num_points,), -1)
        return Assigned(background, boxes.new_zeros(num_points, 4))
    low, high = boxes[None, :, :2], boxes[None, :, 2:]  # [1, N, 2]
    at = points.centers[:, None]
    distances = torch.cat([at - low, high - at], dim=-1)  # [L, N, 4]
    middle, reach = (low + high) / 2, CENTER_RADIUS * points.strides[:, None, None]
    from_center = torch.cat(
        [at - torch.maximum(low, middle - reach), torch.minimum(high, middle + reach) - at], dim=-1
    )
    farthest = distances.amax(dim=-1)
    is_candidate = (
        (from_center.amin(dim=-1) > 0)
        & (farthest > points.low[:, None])
        & (farthest <= points.high[:, None])
    )
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    area, chosen = torch.where(is_candidate, sides[None], math.inf).min(dim=1)
    is_box = area < math.inf
    return Assigned(
        torch.where(is_box, classes[chosen], -1),
        torch.where(is_box[:, None], distances[torch.arange(num_points), chosen], 0.0),
    )


def assign_all(points: Points, targets: Sequence[tuple[Tensor, Tensor]]) -> Assigned:
    """`assign` for the (boxes, classes) of F frames, stacked."""
    device = points.centers.device
    each = [assign(points, boxes.to(device), classes.to(device)) for boxes, classes in targets]
    return Assigned(
        torch.stack([one.classes for one in each]), torch.stack([one.distances for one in each])
    )


def box_losses(logits: Tensor, distances: Tensor, assigned: Assigned) -> tuple[Tensor, Tensor]:
    """Focal loss of scores [F, L, K] and GIoU loss of distances [F, L, 4], both scalars.

    Focal loss over all points, per point that answers for a box; GIoU weighted by the centre-ness
    each has to say. Where no point answers for a box the second is 0, and all stays finite.
    """
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    truth = F.one_hot(assigned.classes + 1, logits.shape[-1] + 1)[..., 1:].float()
    is_box = assigned.classes >= 0
    focal = sigmoid_focal_loss(logits.float(), truth, reduction="sum") / is_box.sum().clamp(min=1)
    there = assigned.distances[is_box]
    weights = centerness_of(there)
    apart = generalized_box_iou_loss(_around_zero(distances[is_box].float()), _around_zero(there))
    return focal, (apart * weights).sum() / weights.sum().clamp(min=1e-6)


def detection_losses(
    logits: Tensor, distances: Tensor, centerness: Tensor, assigned: Assigned
) -> DetectionLosses:
    """Losses of scores [F, L, K], distances [F, L, 4] and centre-ness [F, L] of labelled frames."""
    focal, giou = box_losses(logits, distances, assigned)
    is_box = assigned.classes >= 0
    wanted = centerness_of(assigned.distances[is_box])
    told = F.binary_cross_entropy_with_logits(
        centerness[is_box].float(), wanted, reduction="sum"
    ) / is_box.sum().clamp(min=1)
    return DetectionLosses(focal, giou, told)


def centerness_of(distances: Tensor) -> Tensor:  # [n, 4] -> [n]
    """1 in the middle of a box, 0 at its edge: sqrt(min/max of left, right times top, bottom)."""
    across, down = distances[:, 0::2], distances[:, 1::2]
    share = (across.amin(-1) / across.amax(-1)) * (down.amin(-1) / down.amax(-1))
    return share.clamp(min=0).sqrt()


def _around_zero(distances: Tensor) -> Tensor:
    """Boxes x1, y1, x2, y2 as seen from their points."""
    return torch.cat([-distances[:, :2], distances[:, 2:]], dim=1)
