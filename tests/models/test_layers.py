import pytest
import torch
from timm.layers import resample_abs_pos_embed

from endofm.models.layers import Attention, PatchEmbed, resize_positions, resize_times


def test_fused_attention_equals_the_explicit_one():
    torch.manual_seed(0)
    attention, tokens = Attention(24, 3), torch.randn(2, 7, 24)
    qkv = attention.qkv(tokens)
    values = qkv[..., 48:].view(2, 7, 3, 8).transpose(1, 2)
    explicit = (attention.maps(qkv) @ values).transpose(1, 2).reshape(2, 7, 24)
    assert torch.allclose(attention(tokens), attention.proj(explicit), atol=1e-6)


def test_patches_keep_their_place_in_time_and_space():
    embed = PatchEmbed(2, 3, 4)
    clip = torch.zeros(1, 3, 3, 4, 6)
    clip[0, :, 1, 2:, 4:] = 1  # second frame, second row, third column
    tokens = embed(clip) - embed.proj.bias
    assert tokens.shape == (1, 3, 2, 3, 4)
    assert tokens.any(dim=-1).nonzero().tolist() == [[0, 1, 1, 2]]


def test_nearest_positions_repeat_and_the_class_token_stays():
    positions = torch.tensor([9.0, 1, 2, 3, 4]).view(1, 5, 1)
    resized = resize_positions(positions, (2, 2), (2, 4), "nearest")
    assert resized.flatten().tolist() == [9, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_grid_of_other_shape_but_equal_size_is_resized_too():
    positions = torch.tensor([9.0, 1, 2, 3, 4]).view(1, 5, 1)
    resized = resize_positions(positions, (2, 2), (1, 4), "nearest")
    assert resized.flatten().tolist() == [9, 1, 1, 2, 2]


@pytest.mark.parametrize("grid", [(3, 7), (20, 20)])
def test_smooth_positions_are_resized_as_timm_does(grid):
    positions = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    ours = resize_positions(positions, (14, 14), grid, "smooth")
    assert torch.allclose(ours, resample_abs_pos_embed(positions, grid, (14, 14)), atol=1e-6)


def test_times_are_repeated_or_drawn_straight():
    times = torch.tensor([0.0, 2, 4, 6]).view(1, 4, 1)
    assert resize_times(times, 8, "nearest").flatten().tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert resize_times(times, 2, "nearest").flatten().tolist() == [0, 4]
    assert resize_times(times, 2, "smooth").flatten().tolist() == [1, 5]
    assert resize_times(times, 4, "smooth") is times
