import copy

import pytest
import torch

from endofm.errors import ConfigError
from endofm.hub.folder import save
from endofm.models.adapters import (
    LoraLinear,
    STAdapter,
    add_lora,
    add_st_adapters,
    has_adapters,
    merge_lora,
)
from endofm.models.registry import create_model
from tests.models.test_timesformer import clip, every_attention, small

WAYS = {
    "st_adapter": lambda model: add_st_adapters(model, bottleneck=12),
    "st_adapter before both": lambda model: add_st_adapters(model, bottleneck=12, before="both"),
    "lora": lambda model: add_lora(model, rank=3),
    "lora everywhere": lambda model: add_lora(model, 2, 4.0, ("qkv", "proj", "fc1", "fc2")),
}
every_way = pytest.mark.parametrize("add", WAYS.values(), ids=WAYS.keys())


def move(model, steps=2):
    """Train what trains, so that adapters do something."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.tokens(clip(2, 3, 2, 64, 64)).square().mean().backward()
        optimizer.step()
    with torch.no_grad():  # beyond what the norms let through
        for parameter in trained:
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


@every_attention
@every_way
@pytest.mark.parametrize("num_frames", [1, 3])
def test_adapters_start_as_the_identity(attention, add, num_frames):
    model, given = small(attention).eval(), clip(2, 3, num_frames, 64, 48)
    before = model.tokens(given), model(given), model.attention(given)
    add(model)
    after = model.tokens(given), model(given), model.attention(given)
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    # The last block's patches, of no use to the feature, are left out where no adapter wants them.
    torch.testing.assert_close(before[1], after[1], rtol=1e-5, atol=1e-6)


@every_attention
@every_way
def test_only_their_own_parameters_train(attention, add):
    model = small(attention)
    frozen = copy.deepcopy(model.state_dict())
    names = add(model)
    start = copy.deepcopy(model.state_dict())
    move(model.train())
    state = model.state_dict()
    assert (
        set(names)
        == set(state) - set(frozen)
        == {n for n in state if "adapters" in n or "lora_" in n}
    )
    assert all(torch.equal(state[name], frozen[name]) for name in frozen)
    assert all(not torch.equal(state[name], start[name]) for name in names)


@every_way
def test_gradient_reaches_every_new_parameter(add):
    model = small()
    names = add(model)
    move(model)
    model.zero_grad()
    model.tokens(clip(2, 3, 2, 64, 64))[:, :, :7].square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(names)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@every_way
def test_names_are_those_that_are_stated_and_a_saved_state_comes_back(add):
    model = small().eval()
    plain = set(model.state_dict())
    add(model)
    move(model)
    new = {name for name in set(model.state_dict()) - plain if name.startswith("blocks.1.")}
    for name in new:
        assert name.startswith("blocks.1.adapters.") or name.endswith((".lora_a", ".lora_b"))
    twin = small(seed=5).eval()
    add(twin)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(clip(1, 3, 2, 64, 64)), model(clip(1, 3, 2, 64, 64)))


def test_the_names_of_each_way():
    adapted, lora = small(), small()
    names = add_st_adapters(adapted, before="both")
    parts = [f"{part}.{kind}" for part in ("down", "conv", "up") for kind in ("weight", "bias")]
    assert sorted(names) == sorted(
        f"blocks.{b}.adapters.{half}.{part}"
        for b in (0, 1) for half in ("attention", "mlp") for part in parts
    )  # fmt: skip
    assert adapted.blocks[0].adapters["mlp"].down.weight.shape == (384, 32)
    assert sorted(add_lora(lora)) == sorted(
        f"blocks.{b}.{attention}.{layer}.lora_{side}"
        for b in (0, 1) for attention in ("attn", "temporal_attn")
        for layer in ("qkv", "proj") for side in "ab"
    )  # fmt: skip


@every_attention
def test_merged_lora_equals_unmerged(attention):
    model, given = small(attention).eval(), clip(2, 3, 3, 64, 48)
    plain_names = set(model.state_dict())
    untouched = model(given)
    add_lora(model, targets=("qkv", "proj", "fc1", "fc2"))
    move(model)
    unmerged = model.tokens(given)
    merge_lora(model)
    merged = model.tokens(given)
    assert set(model.state_dict()) == plain_names and not has_adapters(model)
    torch.testing.assert_close(merged, unmerged, atol=1e-6, rtol=1e-5)
    assert (merged[:, 0] - untouched).abs().max() > 1e-2


def test_a_lora_layer_is_worked_out_by_hand():
    linear = torch.nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0]]))
        linear.bias.fill_(0.5)
    layer = LoraLinear(linear, rank=1, alpha=3.0)
    with torch.no_grad():
        layer.lora_a.copy_(torch.tensor([[1.0, -1.0]]))
        layer.lora_b.fill_(2.0)
    given = torch.tensor([[3.0, 1.0]])
    assert layer(given).item() == pytest.approx(3 + 2 + 0.5 + 3 * 2 * (3 - 1))
    assert layer.merged()(given).item() == pytest.approx(17.5)
    assert layer.weight is linear.weight


@pytest.mark.parametrize("frames_apart", [False, True])
def test_an_adapter_looks_one_frame_each_way_at_its_own_place_and_leaves_the_class_token(
    frames_apart,
):
    adapter = STAdapter(6, 4, frames_apart)
    torch.nn.init.ones_(adapter.conv.weight)
    num_frames, places = 5, 3
    tokens = clip(1, 1 + places * num_frames, 6)
    if frames_apart:
        tokens = clip(num_frames, 1 + places, 6)
    changed = tokens.clone()
    row, column = (2, 1 + 1) if frames_apart else (0, 1 + 1 * num_frames + 2)  # place 1, frame 2
    changed[row, column] += torch.arange(6.0)
    apart = (adapter(changed, num_frames) - adapter(tokens, num_frames)).abs().sum(-1) > 1e-5
    moved = {
        (
            i if frames_apart else (j - 1) % num_frames,
            j - 1 if frames_apart else (j - 1) // num_frames,
        )
        for i, j in apart.nonzero().tolist()
    }
    assert moved == {(1, 1), (2, 1), (3, 1)}
    assert torch.equal(adapter(tokens, num_frames)[:, 0], tokens[:, 0])


def test_adapters_keep_the_backbone_s_precision():
    model = small().to(torch.bfloat16)
    add_st_adapters(model, 8)
    assert model(clip(1, 3, 2, 64, 64).bfloat16()).dtype == torch.bfloat16


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        model = small(gradient_checkpointing=checkpointing)
        torch.manual_seed(3)
        add_lora(model)
        move(model, steps=1)
        found.append(model.blocks[0].attn.qkv.lora_a.detach().clone())
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_few_parameters_train_at_full_size():
    with torch.device("meta"):
        model = create_model("timesformer_base")
        total = sum(p.numel() for p in model.parameters())
        add_lora(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained < 0.01 * total


@pytest.mark.parametrize(
    "add",
    [lambda m: add_st_adapters(m, 0), lambda m: add_st_adapters(m, before="attention"),
     lambda m: add_lora(m, 0), lambda m: add_lora(m, alpha=0.0), lambda m: add_lora(m, targets=()),
     lambda m: add_lora(m, targets=("qkv", "head"))],
)  # fmt: skip
def test_adapters_that_cannot_be_are_refused(add):
    model = small()
    with pytest.raises(ConfigError):
        add(model)
    assert not has_adapters(model) and all(p.requires_grad for p in model.parameters())


def test_adapters_on_adapters_and_in_a_model_folder_are_refused(tmp_path):
    model = small()
    add_lora(model)
    with pytest.raises(ConfigError, match="has adapters already"):
        add_st_adapters(model)
    with pytest.raises(ConfigError, match="merge_lora"):
        save(tmp_path / "model", model, model.input_spec, {})
    assert not (tmp_path / "model").exists()
    merge_lora(model)
    save(tmp_path / "model", model, model.input_spec, {})
