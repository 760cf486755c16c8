import pytest
import torch

from endofm.errors import ConfigError
from endofm.heads.segmentation import PyramidDecoder


def make_head(**settings):
    torch.manual_seed(0)
    return PyramidDecoder(24, num_classes=3, channels=32, **settings)


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("grid", "size"),
    [((2, 4, 3, 5), (48, 80)), ((1, 1, 1, 1), (16, 16)), ((1, 7, 2, 3), (31, 50))],
)
def test_any_grid_clip_length_and_size_give_scores_of_every_pixel(grid, size):
    logits = make_head()(tokens(*grid, 24), size)
    assert logits.shape == (*grid[:2], 3, *size)
    assert logits.isfinite().all()


def test_frames_are_decoded_one_by_one_and_in_order():
    head, grid = make_head(), tokens(2, 3, 2, 2, 24)
    whole = head(grid, (32, 32))
    for clip in range(2):
        for frame in range(3):
            alone = head(grid[clip : clip + 1, frame : frame + 1], (32, 32))[0, 0]
            torch.testing.assert_close(whole[clip, frame], alone)


def test_a_token_is_painted_where_it_lies():
    head, grid = make_head().eval(), torch.zeros(1, 1, 4, 4, 24)
    changed = grid.clone()
    changed[0, 0, 0, 3] = tokens(24)
    apart = (head(changed, (64, 64)) - head(grid, (64, 64))).abs().sum(2)[0, 0]  # [H, W]
    row, column = divmod(int(apart.argmax()), 64)
    assert row < 16 and column >= 48


def test_gradient_reaches_every_parameter_and_the_tokens():
    head, grid = make_head(), tokens(2, 2, 2, 3, 24).requires_grad_()
    (head(grid, (32, 48)) * tokens(2, 2, 3, 32, 48, seed=2)).sum().backward()
    assert grid.grad.abs().min() > 0
    assert all(parameter.grad.any() for parameter in head.parameters())


def test_levels_double_the_size_and_halve_the_channels():
    head = make_head(num_levels=2)
    assert head.levels(torch.zeros(1, 32, 3, 5)).shape == (1, 8, 12, 20)
    assert head.num_classes == 3


@pytest.mark.parametrize("changes", [{"num_classes": 1}, {"channels": 36}, {"num_levels": 0}])
def test_sizes_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError, match="segmentation head"):
        PyramidDecoder(**{"width": 24, "num_classes": 2, "channels": 32} | changes)
