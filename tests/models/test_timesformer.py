import json
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from endofm import allocator
from endofm.errors import ConfigError
from endofm.heads.projection import ProjectionHead
from endofm.models.packing import Extent
from endofm.models.registry import create_model, list_models
from endofm.models.timesformer import AttentionType, DividedBlock, TimeSformer, TimeSformerConfig
from tests.shared import shared_folder

ATTENTIONS = get_args(AttentionType)
SMALL = {"width": 32, "depth": 2, "num_heads": 4, "image_pixels": 64, "drop_path": 0.0}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def small(attention="divided_space_time", seed=0, **overrides) -> TimeSformer:
    """A small model whose temporal parts already do something."""
    torch.manual_seed(seed)
    model = create_model("timesformer_tiny", **SMALL | {"attention": attention} | overrides)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "temporal_fc" in name or name == "time_embed":
                parameter.normal_(std=0.2)
    return model


def clip(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(ours: Tensor, golden: Tensor) -> float:
    assert ours.shape == golden.shape
    return ((ours - golden).norm() / golden.norm()).item()


# As released


@pytest.fixture(scope="module")
def released():
    """Golden tensors and a model with their weights, by attention type."""
    found = {}
    for attention in ATTENTIONS:
        path = shared_folder("golden", f"backbone_{attention}.safetensors")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata()
        model = TimeSformer(
            TimeSformerConfig(
                width=int(told["embed_dim"]),
                depth=int(told["depth"]),
                num_heads=int(told["num_heads"]),
                patch_pixels=int(told["patch_size"]),
                image_pixels=int(told["img_size"]),
                num_frames=int(told["num_frames"]),
                layer_norm_eps=float(told["layer_norm_eps"]),
                attention=attention,
            )
        )
        weights = {n[7:]: t for n, t in tensors.items() if n.startswith("weight.")}
        model.load_state_dict(weights, strict=True)
        found[attention] = model.eval(), tensors
    return found


@pytest.mark.golden
@pytest.mark.parametrize("shape", range(6))
@every_attention
def test_features_tokens_and_attention_are_those_of_the_released_code(released, attention, shape):
    model, tensors = released[attention]
    given = tensors[f"input.{shape}"]
    with torch.no_grad():
        assert relative_error(model(given), tensors[f"features.{shape}"]) < 1e-5
        if attention != "space_only":
            assert relative_error(model.tokens(given), tensors[f"tokens.{shape}"]) < 1e-5
        if attention == "divided_space_time":
            assert relative_error(model.attention(given), tensors[f"attention.{shape}"]) < 1e-5


@pytest.mark.golden
def test_base_and_projection_head_have_the_published_names_and_shapes():
    path = shared_folder("golden", "published_backbone_keys.json")
    published = {name: tuple(s) for name, s in json.loads(path.read_text())["tensors"].items()}
    with torch.device("meta"):
        parts = nn.ModuleDict(
            {"backbone": create_model("timesformer_base"), "head": ProjectionHead(768)}
        )
    assert {n: tuple(t.shape) for n, t in parts.state_dict().items()} == published


# Every attention type


@pytest.mark.parametrize("shape", [(2, 3, 4, 64, 64), (1, 3, 1, 32, 64), (2, 3, 3, 48, 80)])
@every_attention
def test_any_size_and_frame_count_runs_forward_and_backward(attention, shape):
    model = small(attention)
    batch, _, frames, height, width = shape
    patches = height // 16 * width // 16
    tokens = model.tokens(clip(*shape))
    assert tokens.shape == (batch, 1 + frames * patches, 32)
    tokens.square().mean().backward()
    assert torch.isfinite(model.pos_embed.grad).all()


@every_attention
def test_first_token_is_the_feature(attention):
    model = small(attention).eval()
    given = clip(2, 3, 3, 48, 64)
    assert torch.allclose(model.tokens(given)[:, 0], model(given), atol=1e-6)
    assert model(given).shape == (2, model.width) == (2, model.num_features)


@every_attention
def test_gradient_reaches_every_parameter(attention):
    model = small(attention)
    (model(clip(2, 3, 3, 64, 64)) * clip(2, 32)).sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_attention
def test_clips_of_a_batch_do_not_see_each_other(attention):
    model = small(attention).eval()
    given = clip(3, 3, 2, 32, 48)
    together = model.tokens(given)
    apart = torch.cat([model.tokens(one) for one in given.split(1)])
    assert torch.allclose(together, apart, atol=1e-5)


@every_attention
def test_attention_maps_are_one_row_a_token_and_sum_to_one(attention):
    model = small(attention).eval()
    maps = model.attention(clip(2, 3, 3, 32, 48))
    joint = attention == "joint_space_time"
    assert maps.shape == ((2, 4, 19, 19) if joint else (6, 4, 7, 7))
    assert torch.allclose(maps.sum(dim=-1), torch.ones(maps.shape[:-1]))


@every_attention
def test_checkpointing_changes_neither_outputs_nor_gradients_with_drop_path(attention):
    results = []
    for recompute in (False, True):
        model = small(attention, drop_path=0.5, gradient_checkpointing=recompute).train()
        torch.manual_seed(5)
        tokens = model.tokens(clip(4, 3, 3, 32, 32))
        (tokens * clip(*tokens.shape)).sum().backward()
        results.append((tokens, {n: p.grad for n, p in model.named_parameters()}))
    (plain, plain_grads), (recomputed, recomputed_grads) = results
    assert torch.equal(plain, recomputed)
    for name, grad in plain_grads.items():
        assert torch.equal(grad, recomputed_grads[name]), name


def test_checkpointing_gives_freed_memory_back_between_packs_and_every_few_blocks(monkeypatch):
    given_back = []
    monkeypatch.setattr(allocator, "_of_glibc", lambda name: given_back.append)
    for recompute, forward, backward in ((False, 0, 0), (True, 2, 2 * 3)):
        model = small(depth=9, gradient_checkpointing=recompute).train()
        features = model(clip(1, 3, 4, 32, 32), clip(1, 3, 4, 32, 16))
        assert len(given_back) == forward
        features.sum().backward()
        assert len(given_back) == forward + backward
    model.requires_grad_(False)(clip(1, 3, 4, 32, 32))
    assert len(given_back) == 2 + 2 * 3 + 1


@every_attention
def test_bf16_autocast_stays_close_to_float32(attention):
    model = small(attention, drop_path=0.3)
    given = clip(2, 3, 4, 48, 48)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(given).sum().backward()
        low = model.eval().tokens(given)
    assert relative_error(low.float(), model.tokens(given)) < 0.03


def test_space_only_sees_every_frame_alone():
    model = small("space_only").eval()
    given = clip(1, 3, 3, 32, 32)
    changed = given.clone()
    changed[:, :, 1] = 0
    patches, patches_changed = (model.tokens(c)[0, 1:].view(4, 3, 32) for c in (given, changed))
    assert torch.equal(patches[:, [0, 2]], patches_changed[:, [0, 2]])
    assert not torch.allclose(patches[:, 1], patches_changed[:, 1])


def test_divided_attention_forgets_the_order_of_frames_without_time_embedding():
    model = small().eval()
    given = clip(1, 3, 4, 32, 32)
    assert not torch.allclose(model(given), model(given.flip(2)), atol=1e-4)
    nn.init.zeros_(model.time_embed)
    assert torch.allclose(model(given), model(given.flip(2)), atol=1e-5)


# Drop path and the start


def test_drop_path_drops_whole_sequences_frames_and_clips():
    batch, places, frames, width = 6, 4, 5, 32
    block = small(drop_path=0.5).blocks[1].train()
    extents = [Extent(batch, frames, places)]
    table = clip(batch * (1 + places * frames), width)
    torch.manual_seed(0)

    def changed(after: Tensor, rest: Tensor | float = 0.0) -> Tensor:  # [B, places, frames]
        update = (after - table)[batch:].view(batch, places, frames, width)
        return ((update - rest).abs() > 1e-5).any(dim=-1)

    dropped_leaves = block.temporal_fc.bias  # it comes after drop path
    in_time = changed(block.attend_in_time(table, extents), dropped_leaves)
    assert (in_time == in_time[:, :, :1]).all()  # all frames of a sequence, or none
    assert 0 < in_time[:, :, 0].sum() < batch * places
    assert (in_time[:, :, 0].any(dim=1) & ~in_time[:, :, 0].all(dim=1)).any()  # not clip by clip
    in_space = changed(block.attend_in_space(table, extents, only_class=False))
    assert (in_space == in_space[:, :1]).all()  # all places of a frame, or none
    assert (in_space[:, 0].any(dim=1) & ~in_space[:, 0].all(dim=1)).any()
    block.attend = lambda same, extents, only_class: same
    after = block(table, extents)
    in_mlp = changed(after).flatten(1)
    assert (in_mlp == in_mlp[:, :1]).all()  # a whole clip, or not at all
    assert 0 < in_mlp[:, 0].sum() < batch
    of_class = ((after - table)[:batch].abs() > 1e-5).any(dim=-1)
    assert torch.equal(of_class, in_mlp[:, 0])  # with its class token


def test_drop_path_rises_linearly_and_rests_in_evaluation():
    model = small(depth=5, drop_path=0.2)
    rates = [block.drop_path.drop_prob for block in model.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    given = clip(2, 3, 2, 32, 32)
    assert torch.equal(model.eval()(given), model(given))


def test_time_starts_without_effect_but_in_the_first_block():
    torch.manual_seed(0)
    model = create_model("timesformer_tiny", **SMALL | {"depth": 3})
    assert not model.time_embed.any()
    assert all(isinstance(block, DividedBlock) for block in model.blocks)
    weights = [bool(block.temporal_fc.weight.any()) for block in model.blocks]
    assert weights == [True, False, False]
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.5)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)


# Configuration and errors


def test_smooth_resizing_is_another_choice_that_only_shows_at_other_sizes():
    nearest, smooth = small().eval(), small(position_resize="smooth").eval()
    smooth.load_state_dict(nearest.state_dict())
    same, other = clip(1, 3, 8, 64, 64), clip(1, 3, 5, 96, 80)
    assert torch.equal(nearest(same), smooth(same))
    assert not torch.allclose(nearest(other), smooth(other), atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"width": 30}, "width 30 can't be shared by 4 heads"),
        ({"depth": 0}, "depth is 0"),
        ({"image_pixels": 60}, "the next that is: 64"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0"),
        ({"attention": "joint"}, "'joint' is unknown; choose one of divided_space_time, joint_"),
        ({"position_resize": "bicubic"}, "choose one of nearest, smooth"),
        ({"drop_pth": 0.1}, "no setting 'drop_pth'; did you mean drop_path"),
        ({"zzz": 0.1}, "choose one of width, depth"),
    ],
)
def test_what_cannot_be_built_is_told_with_a_way_out(setting, says):
    with pytest.raises(ConfigError, match=says):
        create_model("timesformer_tiny", **SMALL | setting)


def test_a_size_that_patches_cannot_tile_names_the_nearest_sizes():
    with pytest.raises(ConfigError, match=r"height of 50 pixels .* resize or pad it to 48 or 64"):
        small()(clip(1, 3, 2, 50, 64))
    with pytest.raises(ConfigError, match=r"width of 8 pixels .* to 16\."):
        small()(clip(1, 3, 2, 64, 8))


@pytest.mark.parametrize("shape", [(1, 4, 2, 64, 64), (3, 2, 64, 64), (1, 3, 0, 64, 64)])
def test_what_is_not_a_clip_is_refused_with_its_shape(shape):
    with pytest.raises(ConfigError, match=r"A clip is \[B, 3, T, H, W\]"):
        small()(torch.zeros(shape))


def test_registry_knows_four_sizes_and_names_the_nearest():
    known = [f"timesformer_{size}" for size in ("base", "mini", "small", "tiny")]
    assert [name for name in list_models() if name.startswith("timesformer")] == known
    with torch.device("meta"):
        sizes = {name: create_model(name).config for name in known}
    assert {n.split("_")[1]: (c.width, c.depth, c.num_heads) for n, c in sizes.items()} == {
        "mini": (128, 2, 2),
        "tiny": (192, 12, 3),
        "small": (384, 12, 6),
        "base": (768, 12, 12),
    }
    with pytest.raises(ConfigError, match="did you mean timesformer_base"):
        create_model("timesformer_bas")


def test_base_has_121_million_parameters():
    with torch.device("meta"):
        model = create_model("timesformer_base")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(121e6, rel=0.01)
