import math

import pytest
import torch

from endofm.losses.segmentation import IGNORED, dice_loss, segmentation_loss


def logits_of(*probabilities):
    """Logits [1, 1, 2, 1, n] whose softmax gives these chances of class 1."""
    p = torch.tensor(probabilities)
    return torch.stack([1 - p, p]).log()[None, None, :, None]


def masks_of(*labels):
    return torch.tensor(labels)[None, None, None]


def test_both_parts_are_worked_out_by_hand():
    loss = segmentation_loss(logits_of(0.75, 0.5), masks_of(1, 0))
    entropy = -(math.log(0.75) + math.log(0.5)) / 2
    polyp = 1 - 2 * 0.75 / (0.75**2 + 0.5**2 + 1)
    background = 1 - 2 * 0.5 / (0.25**2 + 0.5**2 + 1)
    dice = (polyp + background) / 2
    assert math.isclose(loss.cross_entropy.item(), entropy, rel_tol=1e-5)
    assert math.isclose(loss.dice.item(), dice, rel_tol=1e-4)
    assert math.isclose(loss.total.item(), (entropy + dice) / 2, rel_tol=1e-4)


def test_the_two_parts_are_weighed_as_told():
    loss = segmentation_loss(logits_of(0.75, 0.5), masks_of(1, 0), dice_weight=0.2)
    torch.testing.assert_close(loss.total, 0.8 * loss.cross_entropy + 0.2 * loss.dice)


def test_class_weights_weigh_pixels_in_the_cross_entropy_only():
    plain = segmentation_loss(logits_of(0.75, 0.5), masks_of(1, 0))
    loss = segmentation_loss(
        logits_of(0.75, 0.5), masks_of(1, 0), class_weights=torch.tensor([1.0, 3.0])
    )
    expected = -(3 * math.log(0.75) + math.log(0.5)) / 4
    assert math.isclose(loss.cross_entropy.item(), expected, rel_tol=1e-5)
    assert torch.equal(loss.dice, plain.dice)


def test_ignored_pixels_count_nowhere_and_get_no_gradient():
    logits = logits_of(0.75, 0.5, 0.9).requires_grad_()
    with_ignored = segmentation_loss(logits, masks_of(1, 0, IGNORED))
    without = segmentation_loss(logits_of(0.75, 0.5), masks_of(1, 0))
    for one, two in zip(with_ignored, without, strict=True):
        torch.testing.assert_close(one, two)
    with_ignored.total.backward()
    assert logits.grad[..., 2].abs().max() == 0 and logits.grad[..., :2].abs().min() > 0


def test_a_batch_of_ignored_pixels_only_costs_nothing_and_stays_differentiable():
    logits = logits_of(0.75, 0.5).requires_grad_()
    loss = segmentation_loss(logits, masks_of(IGNORED, IGNORED))
    assert [part.item() for part in loss] == [0, 0, 0]
    loss.total.backward()
    assert logits.grad.abs().max() == 0


def test_on_empty_masks_a_false_alarm_costs_and_silence_does_not():
    empty = masks_of(0, 0, 0, 0)
    alarm = segmentation_loss(logits_of(0.99, 0.99, 0.99, 0.99), empty)
    silence = segmentation_loss(logits_of(0.001, 0.001, 0.001, 0.001), empty)
    assert silence.total < 0.01 and silence.dice < 1e-4
    assert alarm.cross_entropy > 4 and alarm.dice > 0.9
    assert all(part.isfinite() for part in alarm)


def test_a_class_that_is_absent_takes_no_part_in_the_dice():
    probabilities = torch.tensor([[0.5, 0.25, 0.25]]).view(1, 3, 1, 1)
    labels, is_valid = torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1, dtype=torch.bool)
    expected = 1 - 2 * 0.5 / (0.25 + 1)
    assert math.isclose(dice_loss(probabilities, labels, is_valid).item(), expected, rel_tol=1e-4)


@pytest.mark.parametrize("labels", [(1, 1, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
def test_a_sure_and_right_prediction_costs_nothing(labels):
    sure = [0.99999 if label else 0.00001 for label in labels]
    assert segmentation_loss(logits_of(*sure), masks_of(*labels)).total < 1e-4


def test_half_precision_logits_give_the_loss_in_full_precision():
    logits = torch.randn(2, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0)) * 20
    masks = torch.randint(0, 2, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    half = segmentation_loss(logits.half(), masks)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(
        half.total, segmentation_loss(logits, masks).total, rtol=1e-3, atol=0
    )
