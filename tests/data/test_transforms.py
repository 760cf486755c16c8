import numpy as np
import pytest
import torch
from torch.nn import functional as F

from endofm.data.transforms import (
    ASPECT_RATIO,
    LUMA,
    Crop,
    apply_crop,
    draw_color,
    draw_crop,
    to_network_input,
)


def frames_of(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))


@pytest.mark.parametrize("quirks", ["none", "released"])
@pytest.mark.parametrize("size", [(256, 340), (64, 64), (17, 400), (400, 17)])
def test_crops_lie_inside_the_frame(size, quirks):
    rng = np.random.default_rng(0)
    for _ in range(300):
        crop = draw_crop(size, (0.05, 1.0), rng, quirks)
        assert crop.height > 0 and crop.width > 0 and crop.top >= 0 and crop.left >= 0
        assert crop.top + crop.height <= size[0] and crop.left + crop.width <= size[1]


def test_crops_have_the_area_and_ratio_asked_for_and_half_are_flipped():
    rng = np.random.default_rng(0)
    crops = [draw_crop((256, 256), (0.4, 0.7), rng) for _ in range(500)]
    areas = [crop.height * crop.width / 256**2 for crop in crops]
    ratios = [crop.width / crop.height for crop in crops]
    assert min(areas) > 0.39 and max(areas) < 0.71 and 0.52 < np.mean(areas) < 0.58
    assert min(ratios) > ASPECT_RATIO[0] - 0.02 and max(ratios) < ASPECT_RATIO[1] + 0.02
    assert 0.42 < np.mean([crop.flip for crop in crops]) < 0.58


def test_every_frame_of_a_view_is_cut_alike():
    frames = frames_of(1, 40, 60).expand(5, -1, -1, -1)
    view = apply_crop(frames, Crop(3, 5, 30, 20, flip=True), 16)
    assert view.shape == (5, 16, 16, 3) and view.dtype == torch.uint8
    assert all(torch.equal(view[0], frame) for frame in view)


def test_a_crop_equals_cutting_and_resizing_in_float():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    waves = [
        128 + 100 * torch.sin(rows / 7 + channel) * torch.cos(columns / 9) for channel in range(3)
    ]
    frames = torch.stack(waves, dim=-1).byte().expand(2, -1, -1, -1)
    view = apply_crop(frames, Crop(3, 5, 30, 20, flip=True), 24)
    window = frames[:, 3:33, 5:25].permute(0, 3, 1, 2).double()
    exact = F.interpolate(window, size=(24, 24), mode="bicubic", antialias=True).clamp(0, 255)
    difference = (view.double() - exact.flip(-1).permute(0, 2, 3, 1)).abs()
    assert difference.max() <= 1.5 and difference.mean() < 0.4


def jitter_step_by_step(rgb, seed, strengths):
    """Brightness, contrast and saturation one after the other on the pixels, without clamping."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.8:
        factors = [1 + rng.uniform(-s, s) for s in strengths]
        for kind in rng.permutation(3):
            grey = rgb @ LUMA
            if kind == 0:
                rgb = rgb * factors[0]
            elif kind == 1:
                rgb = rgb * factors[1] + (1 - factors[1]) * grey.mean()
            else:
                rgb = rgb * factors[2] + (1 - factors[2]) * grey[..., None]
    if rng.random() < 0.2:
        rgb = np.repeat((rgb @ LUMA)[..., None], 3, axis=-1)
    return rgb


def test_the_affine_map_equals_jitter_step_by_step():
    rgb = 0.3 + 0.3 * np.random.default_rng(5).random((4, 6, 6, 3))  # stays away from 0 and 1
    changed = 0
    for seed in range(60):
        expected = jitter_step_by_step(rgb, seed, (0.4, 0.4, 0.2))
        mean = rgb.reshape(-1, 3).mean(0)
        color = draw_color(mean, (0.4, 0.4, 0.2), np.random.default_rng(seed))
        mapped = rgb @ color[:, :3].T + color[:, 3]
        np.testing.assert_allclose(mapped, expected, atol=1e-5)
        changed += not np.allclose(mapped, rgb)
    assert 40 < changed < 60


def test_no_jitter_leaves_colours_or_makes_them_grey():
    for seed in range(20):
        color = draw_color(np.full(3, 0.5), (0, 0, 0), np.random.default_rng(seed))
        is_grey = np.allclose(color[:, :3], np.tile(LUMA, (3, 1)))
        assert is_grey or np.allclose(color[:, :3], np.eye(3))
        assert np.allclose(color[:, 3], 0, atol=1e-7)


def test_pixels_become_normalised_channels_first_clips():
    frames = frames_of(2, 3, 4, 5)
    color = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1).expand(2, 3, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.2])
    clip = to_network_input(frames, color, mean, std)
    assert clip.shape == (2, 3, 3, 4, 5)
    expected = (frames[1, 2, 3, 4].float() / 255 - mean) / std
    torch.testing.assert_close(clip[1, :, 2, 3, 4], expected)


def test_colours_out_of_range_are_clamped():
    color = torch.cat([3 * torch.eye(3), torch.zeros(3, 1)], 1)[None]
    clip = to_network_input(frames_of(1, 2, 8, 8), color, torch.zeros(3), torch.ones(3))
    assert clip.max() == 1 and clip.min() >= 0
