"""Cross-entropy and Dice of masks, half of each by default, as the released segmentation takes.

Shapes: B clips, T frames, K classes, H W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255
"""The label of pixels that count nowhere."""

SMOOTHING = 1e-5


class SegmentationLoss(NamedTuple):
    """Scalars: what to minimise, and its two parts before they are weighed."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    dice_weight: float = 0.5,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORED,
) -> SegmentationLoss:
    """`(1 - dice_weight)` cross-entropy and `dice_weight` Dice of `logits` [B, T, K, H, W].

    `masks` int64 [B, T, H, W] hold 0 to K - 1, or `ignore_index`. Where every pixel is ignored both
    parts are 0. `class_weights` [K] act in the cross-entropy.
    """
    scores = logits.float().flatten(0, 1)  # [B T, K, H, W]
    labels = masks.flatten(0, 1)
    is_valid = labels != ignore_index
    entropy = mean_cross_entropy(scores, labels.masked_fill(~is_valid, 0), is_valid, class_weights)
    dice = dice_loss(scores.softmax(dim=1), labels.masked_fill(~is_valid, 0), is_valid)
    return SegmentationLoss((1 - dice_weight) * entropy + dice_weight * dice, entropy, dice)


def mean_cross_entropy(
    scores: Tensor, labels: Tensor, is_valid: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """The mean over valid pixels, weighed by the pixel's class; 0 where none is valid."""
    each = F.cross_entropy(scores, labels, reduction="none")
    weights = is_valid.float()
    if class_weights is not None:
        weights = weights * class_weights[labels]
    return (each * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def dice_loss(probabilities: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
    """1 - 2 |p t| / (|p|^2 + |t|^2), a mean over the classes that are there; 0 where none is.

    Milletari et al.: V-Net (3DV 2016), equation in section 3, over all valid pixels of the batch
    together. `probabilities` [N, K, H, W], `labels` and `is_valid` [N, H, W]. A class without a
    pixel takes no part: its Dice would be 1 whatever the prediction, but for the smoothing, and its
    false alarms are the cross-entropy's business.
    """
    num_classes = probabilities.shape[1]
    truth = F.one_hot(labels, num_classes).movedim(-1, 1) * is_valid[:, None]
    given = probabilities * is_valid[:, None]
    pixels = truth.sum(dim=(0, 2, 3))  # [K]
    shared = (given * truth).sum(dim=(0, 2, 3))
    overlap = (2 * shared + SMOOTHING) / (given.square().sum(dim=(0, 2, 3)) + pixels + SMOOTHING)
    is_there = (pixels > 0).float()
    return ((1 - overlap) * is_there).sum() / is_there.sum().clamp_min(1)
