import numpy as np
import pytest
import torch

from endofm.models.outputs import class_attention, patch_tokens
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from endofm.report.features import (
    FULL_HEAT,
    MARGIN,
    THUMB,
    Seen,
    compare_sheet,
    feature_sheet,
    foreground,
    heat,
    look,
    principal_colors,
)

KINDS = ("divided_space_time", "joint_space_time", "space_only")
FRAMES, HEIGHT, WIDTH, SIDE = 3, 24, 40, 8


def small_model(kind="divided_space_time", seed=0):
    torch.manual_seed(seed)
    config = TimeSformerConfig(
        width=16, depth=2, num_heads=2, patch_pixels=SIDE, image_pixels=32, attention=kind
    )
    return TimeSformer(config)


def clips_with_a_spot(frame, row, column):
    """A grey clip with one white patch."""
    clips = np.full((1, FRAMES, HEIGHT, WIDTH, 3), 90, np.uint8)
    clips[0, frame, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = 255
    return clips


def attend_to_brightness(model):
    """Make brightness the only thing a token holds, and what the class token looks for."""
    with torch.no_grad():
        for block in model.blocks:
            for parameter in (*block.attn.proj.parameters(), *block.mlp.fc2.parameters()):
                parameter.zero_()
            if hasattr(block, "temporal_fc"):
                for parameter in block.temporal_fc.parameters():
                    parameter.zero_()
        for embedding in (model.pos_embed, model.time_embed):
            if embedding is not None:
                embedding.zero_()
        half = torch.ones(model.width)
        half[model.width // 2 :] = -1
        model.cls_token.copy_(half)
        projection = model.patch_embed.proj
        projection.bias.zero_()
        projection.weight.copy_(half[:, None, None, None].expand_as(projection.weight) / 100)
        attention = model.blocks[-1].attn.qkv
        attention.bias.zero_()
        attention.weight.copy_(torch.eye(model.width).repeat(3, 1))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_brightest_where_it_was_planted(kind):
    model = attend_to_brightness(small_model(kind))
    dark = clips_with_a_spot(frame=1, row=2, column=3)
    dark[dark == 90] = 0
    seen = look(model, dark, num_shown=FRAMES)
    assert seen.attention.shape == (1, FRAMES, HEIGHT // SIDE, WIDTH // SIDE)
    assert np.unravel_index(seen.attention.argmax(), seen.attention.shape) == (0, 1, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_even_attention_is_one_everywhere(kind):
    model = small_model(kind)
    torch.nn.init.zeros_(model.blocks[-1].attn.qkv.weight)
    video = torch.randn(2, 3, FRAMES, HEIGHT, WIDTH)
    with torch.no_grad():
        shares = class_attention(model, video)
    torch.testing.assert_close(shares, torch.ones(2, FRAMES, HEIGHT // SIDE, WIDTH // SIDE))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_class_token_gives_to_patches_and_itself_is_all_it_has(kind):
    model = small_model(kind).eval()
    torch.nn.init.normal_(model.blocks[-1].attn.qkv.weight)
    video = torch.randn(1, 3, FRAMES, HEIGHT, WIDTH)
    with torch.no_grad():
        maps = model.attention(video).mean(dim=1)
        given = class_attention(model, video).sum() / maps.shape[-1] + maps[:, 0, 0].sum()
    torch.testing.assert_close(given, torch.tensor(float(len(maps))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_token_stands_where_its_patch_is(kind):
    model = attend_to_brightness(small_model(kind)).eval()
    video = model.input_spec.normalize(torch.from_numpy(clips_with_a_spot(2, 0, 4)))
    with torch.no_grad():
        tokens = patch_tokens(model, video)[0]
    apart = (tokens - tokens[0, 0, 0]).norm(dim=-1)
    assert apart.argmax() == torch.tensor([2, 0, 4]) @ torch.tensor([15, 5, 1])


def test_principal_colors_tell_planted_clusters_apart():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 32)) * 5
    which = rng.integers(0, 3, (2, 4, 6, 6))
    tokens = (centers[which] + rng.normal(size=(*which.shape, 32)) * 0.1).astype(np.float32)
    colors = principal_colors(tokens, np.ones(which.shape, bool))
    assert colors.shape == (*which.shape, 3) and colors.min() == 0 and colors.max() == 1
    means = np.stack([colors[which == k].mean(axis=0)[:2] for k in range(3)])
    spread = max(colors[which == k][:, :2].std(axis=0).max() for k in range(3))
    gaps = [np.abs(means[i] - means[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 10 * spread


def test_border_neither_has_colours_nor_takes_them_from_the_rest():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(1, 1, 4, 4, 8)).astype(np.float32)
    shown = np.ones((1, 1, 4, 4), bool)
    shown[..., 0] = False
    colors = principal_colors(tokens, shown)
    tokens[..., 0, :] += 1000
    np.testing.assert_allclose(principal_colors(tokens, shown), colors, atol=1e-5)
    assert (colors[..., 0, :] == 0).all() and colors[..., 1:, :].std() > 0.1


def test_foreground_is_what_is_not_black():
    frames = np.zeros((1, 1, 16, 24, 3), np.uint8)
    frames[0, 0, :8, 8:16] = 120
    tokens = np.zeros((1, 1, 2, 3, 4), np.float32)
    is_shown = foreground(Seen(frames, tokens, np.zeros((1, 1, 2, 3), np.float32)))
    assert is_shown.tolist() == [[[[False, True, False], [False, False, False]]]]


def test_heat_is_brightest_where_attention_is():
    frame = np.full((60, 60, 3), 100, np.uint8)
    attention = np.ones((3, 3), np.float32)
    attention[2, 0] = FULL_HEAT
    warm = heat(frame, attention, FULL_HEAT).mean(axis=-1)
    assert warm[50, 10] > warm[10, 50] + 40
    assert warm[10, 10] == warm[10, 50]


def test_a_sheet_has_a_row_for_frames_features_and_attention_of_every_clip():
    clips = np.random.default_rng(0).integers(0, 256, (2, FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    model = small_model().train()
    one, two = (feature_sheet(model, clips[:n], num_shown=2) for n in (1, 2))
    assert one.dtype == np.uint8 and one.ndim == 3
    assert two.shape[0] - one.shape[0] > 3 * round(THUMB * HEIGHT / WIDTH)
    assert model.training  # as it was


def test_compared_models_stand_beside_each_other():
    clips = clips_with_a_spot(0, 0, 0)
    same, other = small_model(seed=0), small_model(seed=1)
    single = feature_sheet(same, clips, ["a clip"])
    twice = compare_sheet({"pretrained": same, "untrained": same}, clips, ["a clip"])
    mixed = compare_sheet({"pretrained": same, "untrained": other}, clips, ["a clip"])
    panel = single.shape[1] - MARGIN
    assert twice.shape == mixed.shape and twice.shape[1] == MARGIN + 2 * panel
    middle = MARGIN + panel
    assert (twice[:, :middle] == mixed[:, :middle]).all()
    assert (twice[:, middle:] != mixed[:, middle:]).any()


def test_a_name_longer_than_its_panel_is_shown_whole():
    clips = clips_with_a_spot(0, 0, 0)
    short, long = (feature_sheet(small_model(), clips, ["a" * n]) for n in (5, 200))
    assert long.shape[1] > 2 * short.shape[1]
    assert (long[:, -60:] < 128).any()
