import pytest
import torch

from endofm.errors import ConfigError
from endofm.heads.detection import FcosHead, FeaturePyramid, dense
from endofm.heads.stft import VideoBranch, gather_channels, key_first

STRIDES = (8.0, 16.0, 32.0, 64.0, 128.0)


def maps(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(channels=16, num_classes=2):
    torch.manual_seed(0)
    return FeaturePyramid(24, channels), FcosHead(channels, num_classes, 2)


# Pyramid and head


@pytest.mark.parametrize("grid", [(14, 14), (5, 7), (1, 1), (1, 6)])
def test_five_levels_grow_out_of_any_grid(grid):
    pyramid, head = make()
    levels = pyramid(maps(2, *grid, 24))
    rows, columns = 2 * grid[0], 2 * grid[1]
    for level in levels:
        assert level.shape == (2, 16, rows, columns)
        rows, columns = -(-rows // 2), -(-columns // 2)
    told = dense(head(levels, STRIDES))
    num_points = sum(level[0, 0].numel() for level in levels)
    assert told.logits.shape == (2, num_points, 2) and told.centerness.shape == (2, num_points)
    assert told.distances.shape == (2, num_points, 4) and (told.distances > 0).all()


def test_in_bfloat16_taps_beyond_a_map_of_one_cell_have_no_gradient():
    for seed in range(10):  # what is never written holds whatever memory held
        pyramid, _ = make(channels=32)
        with torch.autocast("cpu", torch.bfloat16):
            levels = pyramid(maps(8, 4, 4, 24, seed=seed))
        assert levels[3].shape[2:] == levels[4].shape[2:] == (1, 1)
        sum(level.float().square().sum() for level in levels).backward()
        gradient = pyramid.coarser[1].weight.grad.clone()
        assert gradient[:, :, 1, 1].abs().sum() > 0
        gradient[:, :, 1, 1] = 0
        assert (gradient == 0).all()


def test_the_head_starts_unsure_and_with_boxes_of_two_cells():
    pyramid, head = make()
    found = head(pyramid(maps(1, 8, 8, 24)), STRIDES)
    for level, stride in zip(found, STRIDES, strict=True):
        assert level.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
        assert level.distances.mean().item() == pytest.approx(stride, rel=0.2)


def test_levels_share_towers_but_not_scales():
    _, head = make()
    level = maps(1, 16, 4, 4)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0]))
    one, two, *_ = head([level] * 5, [8.0] * 5)
    torch.testing.assert_close(one.logits, two.logits)
    torch.testing.assert_close((one.distances / 8) ** 2, two.distances / 8)


def test_frames_do_not_see_each_other():
    pyramid, head = make()
    grid = maps(3, 4, 5, 24)
    whole = dense(head(pyramid(grid), STRIDES))
    alone = dense(head(pyramid(grid[1:2]), STRIDES))
    torch.testing.assert_close(whole.logits[1:2], alone.logits)
    torch.testing.assert_close(whole.distances[1:2], alone.distances)


def test_huge_scores_stay_finite():
    _, head = make()
    with torch.no_grad():
        head.regress.bias.fill_(1e4)
    found = head([maps(1, 16, 3, 3)] * 5, STRIDES)
    assert all(level.distances.isfinite().all() for level in found)


def test_gradient_reaches_every_parameter():
    pyramid, head = make()
    told = dense(head(pyramid(maps(2, 6, 6, 24)), STRIDES))
    (told.logits.sum() + told.distances.log().square().sum() + told.centerness.sum()).backward()
    for module in (pyramid, head):
        still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
        assert not still


def test_heads_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="0 classes"):
        FcosHead(16, 0)


# Video branch


def levels_of(num_frames, clips=2, seed=1):
    pyramid, head = make()
    grid = maps(clips * num_frames, 4, 5, 24, seed=seed)
    return head(pyramid(grid), STRIDES)


def test_the_key_frame_comes_first_and_the_others_stay_in_order():
    clips = torch.arange(6.0).reshape(6, 1, 1, 1)
    ordered = key_first(clips, torch.tensor([1, 2])).flatten(1)
    assert ordered.tolist() == [[1, 0, 2], [5, 3, 4]]


def test_channel_attention_is_worked_out_by_hand():
    # One clip, three frames, two channels, one cell: scores are products, divided by sqrt(1).
    clip = torch.tensor([[2.0, 1.0], [3.0, 0.0], [1.0, 4.0]]).reshape(1, 3, 2, 1, 1)
    first, second = torch.tensor([6.0, 2.0]).softmax(0), torch.tensor([0.0, 4.0]).softmax(0)
    expected = [2 + first @ torch.tensor([3.0, 1.0]), 1 + second @ torch.tensor([0.0, 4.0])]
    torch.testing.assert_close(gather_channels(clip).flatten(), torch.stack(expected))


def test_references_help_and_their_order_does_not_matter():
    branch = VideoBranch(16, 2)
    levels = levels_of(3)
    keys = torch.tensor([0, 0])
    refined = branch(levels, keys)
    assert refined.logits.shape == dense(levels).logits[:2].shape

    def reordered(order):
        frames = torch.tensor(order)
        names = ("class_tower", "box_tower", "logits", "distances", "centerness")
        return [
            type(level)(*(getattr(level, name)[frames] for name in names), level.stride)
            for level in levels
        ]

    swapped = branch(reordered([0, 2, 1, 3, 5, 4]), keys)
    torch.testing.assert_close(swapped.logits, refined.logits)
    torch.testing.assert_close(swapped.distances, refined.distances)
    moved = branch(reordered([1, 0, 2, 4, 3, 5]), torch.tensor([1, 1]))
    torch.testing.assert_close(moved.logits, refined.logits)
    other = branch(reordered([0, 4, 5, 3, 1, 2]), keys)
    assert not torch.allclose(other.logits, refined.logits)
    assert not torch.allclose(other.distances, refined.distances)


def test_a_clip_of_one_frame_is_its_own_reference():
    branch = VideoBranch(16, 2)
    refined = branch(levels_of(1), torch.tensor([0, 0]))
    assert refined.logits.isfinite().all() and len(refined.logits) == 2


def test_the_second_box_starts_at_the_first_and_does_not_train_it():
    branch = VideoBranch(16, 2)
    levels = levels_of(2)
    for level in levels:
        level.distances.retain_grad()
    with torch.no_grad():
        branch.regress.weight.zero_()
    refined = branch(levels, torch.tensor([0, 1]))
    torch.testing.assert_close(refined.distances, dense(levels).distances[[0, 3]])
    (refined.distances.sum() + refined.logits.sum()).backward()
    assert all(level.distances.grad is None for level in levels)


def test_gradient_reaches_every_parameter_of_the_branch_also_the_offsets():
    branch = VideoBranch(16, 2)
    refined = branch(levels_of(3), torch.tensor([0, 2]))
    (refined.logits.sum() + refined.distances.log().square().sum()).backward()
    still = [n for n, p in branch.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
