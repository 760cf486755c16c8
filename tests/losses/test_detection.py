import math

import pytest
import torch

from endofm.losses.detection import (
    assign,
    assign_all,
    box_losses,
    centerness_of,
    detection_losses,
    make_points,
)

CLASS = torch.zeros(1, dtype=torch.int64)


def box(*corners):
    return torch.tensor([corners], dtype=torch.float32)


def points(size=64, levels=5):
    strides = [8.0 * 2**level for level in range(levels)]
    return make_points([(math.ceil(size / s), math.ceil(size / s)) for s in strides], strides)


# Points and levels


def test_points_lie_in_the_middle_of_cells_row_by_row_and_level_by_level():
    found = make_points([(2, 3), (1, 2)], [8.0, 16.0])
    assert found.centers.tolist() == [
        [4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8],
    ]  # fmt: skip
    assert found.strides.tolist() == [8] * 6 + [16] * 2
    assert found.low.tolist() == [0] * 6 + [64] * 2
    assert found.high.tolist() == [64] * 6 + [math.inf] * 2


def test_levels_take_the_box_sizes_of_fcos():
    found = points(128)
    rows = torch.stack([found.strides, found.low, found.high], dim=1)
    ranges = sorted({tuple(row) for row in rows.tolist()})
    assert ranges == [
        (8, 0, 64),
        (16, 64, 128),
        (32, 128, 256),
        (64, 256, 512),
        (128, 512, math.inf),
    ]


# Who answers for which box


def test_points_near_the_centre_answer_and_tell_the_distances():
    found = assign(make_points([(8, 8)], [8.0]), box(8, 8, 56, 40), CLASS)
    # The centre is 32, 24, and a point has to be less than 12 pixels from it each way.
    answering = [i for i, c in enumerate(found.classes.tolist()) if c == 0]
    places = {(i % 8 * 8 + 4, i // 8 * 8 + 4) for i in answering}
    assert places == {(x, y) for x in (28, 36) for y in (20, 28)}
    at = answering[0]
    assert (at % 8 * 8 + 4, at // 8 * 8 + 4) == (28, 20)
    assert found.distances[at].tolist() == [20, 12, 28, 20]
    assert (found.distances[found.classes < 0] == 0).all()


def test_a_box_is_told_by_the_level_of_its_size():
    for side, stride in ((60, 8), (100, 8), (140, 16), (300, 32), (700, 64), (2000, 128)):
        found = points(2048)
        low, high = 1024 - side / 2, 1024 + side / 2
        told = assign(found, box(low, low, high, high), CLASS)
        assert set(found.strides[told.classes == 0].tolist()) == {stride}, side


def test_where_boxes_overlap_the_smaller_one_is_told():
    boxes = torch.cat([box(0, 0, 64, 64), box(20, 20, 44, 44)])
    for order in ([0, 1], [1, 0]):
        classes = torch.tensor([3, 5])[order]
        found = assign(points(), boxes[order], classes)
        middle = int((points().centers - 36).abs().sum(1).argmin())
        assert found.classes[middle] == 5
        assert found.distances[middle].tolist() == [16, 16, 8, 8]


def test_a_point_on_the_edge_or_outside_never_answers():
    found = assign(make_points([(1, 2)], [8.0]), box(4, 0, 12, 8), CLASS)
    assert found.classes.tolist() == [-1, -1]
    found = assign(make_points([(1, 2)], [8.0]), box(3, 0, 12, 8), CLASS)
    assert found.classes.tolist() == [0, -1]


def test_no_boxes_are_all_background():
    found = assign(points(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert (found.classes == -1).all() and found.classes.dtype == torch.int64
    assert not found.distances.any()


# Losses


def test_centerness_is_worked_out_by_hand():
    given = torch.tensor([[10.0, 10, 10, 10], [5, 10, 20, 10], [0, 5, 8, 5]])
    torch.testing.assert_close(centerness_of(given), torch.tensor([1.0, 0.5, 0.0]))


def flat(num_points, k=1, value=0.0):
    return torch.full((1, num_points, k), value)


def test_losses_are_worked_out_by_hand():
    grid = make_points([(2, 2)], [8.0])
    assigned = assign_all(grid, [(box(0, 0, 8, 8), CLASS)])  # the first of four points answers
    assert assigned.classes.tolist() == [[0, -1, -1, -1]]
    distances = torch.tensor([[4.0, 4, 4, 4]]).expand(4, 4)[None].clone()
    distances[0, 0, 2] = 12  # 16 wide instead of 8: IoU and GIoU are 1/2
    losses = detection_losses(flat(4), distances, torch.zeros(1, 4), assigned)
    focal = math.log(2) * 0.25 * (0.25 + 3 * 0.75)  # p = 0.5 everywhere: (1 - p)^2 = 0.25
    assert losses.focal.item() == pytest.approx(focal)
    assert losses.giou.item() == pytest.approx(0.5)
    assert losses.centerness.item() == pytest.approx(math.log(2))


def test_right_answers_cost_nothing():
    grid = points()
    assigned = assign_all(grid, [(box(10, 12, 50, 40), CLASS), (torch.zeros(0, 4), CLASS[:0])])
    logits = torch.where(assigned.classes[..., None] >= 0, 20.0, -20.0)
    is_box = assigned.classes >= 0
    centerness = torch.zeros(assigned.classes.shape)
    centerness[is_box] = torch.logit(centerness_of(assigned.distances[is_box]), eps=1e-6)
    losses = detection_losses(logits, assigned.distances, centerness, assigned)
    assert losses.focal < 1e-6 and losses.giou < 1e-6
    # Binary cross-entropy of a share has its least at that share, not at zero.
    higher = detection_losses(logits, assigned.distances, centerness + 0.3, assigned)
    assert higher.centerness > losses.centerness


def test_frames_without_boxes_give_finite_losses_and_gradients():
    grid = points()
    num = len(grid.centers)
    logits = torch.zeros(2, num, 1, requires_grad=True)
    distances = torch.ones(2, num, 4, requires_grad=True)
    centerness = torch.zeros(2, num, requires_grad=True)
    empty = (torch.zeros(0, 4), CLASS[:0])
    losses = detection_losses(logits, distances, centerness, assign_all(grid, [empty, empty]))
    assert losses.giou == 0 and losses.centerness == 0 and losses.focal.isfinite()
    (losses.focal + losses.giou + losses.centerness).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0
    assert not distances.grad.any() and not centerness.grad.any()


def test_a_class_is_told_apart_from_the_others():
    grid = make_points([(1, 1)], [8.0])
    assigned = assign_all(grid, [(box(0, 0, 8, 8), torch.tensor([1]))])
    right, wrong = torch.tensor([[[-9.0, 9.0]]]), torch.tensor([[[9.0, -9.0]]])
    distances = torch.full((1, 1, 4), 4.0)
    assert box_losses(right, distances, assigned)[0] < 1e-4
    assert box_losses(wrong, distances, assigned)[0] > 5


def test_boxes_far_apart_cost_more_than_boxes_that_touch():
    grid = make_points([(1, 1)], [8.0])
    assigned = assign_all(grid, [(box(0, 0, 8, 8), CLASS)])
    costs = [
        box_losses(flat(1), torch.full((1, 1, 4), side), assigned)[1].item()
        for side in (4.0, 8.0, 40.0)
    ]
    assert costs == sorted(costs) and costs[0] < 1e-6
