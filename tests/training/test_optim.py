import pytest
import torch
from torch import nn

from endofm.errors import ConfigError
from endofm.heads.projection import ProjectionHead
from endofm.models.registry import create_model
from endofm.training.optim import OptimConfig, clip_gradients, parameter_groups


def with_gradients(*values):
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def test_per_tensor_clipping_bounds_each_tensor_by_itself():
    large, small = with_gradients([6.0, 8.0], [0.3, 0.4])
    norm = clip_gradients([large, small], 5.0, "per_tensor")
    torch.testing.assert_close(large.grad, torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(small.grad, torch.tensor([0.3, 0.4]))
    assert norm.item() == pytest.approx((100 + 0.25) ** 0.5)


def test_global_clipping_keeps_the_direction_and_equals_torch():
    ours, theirs = (with_gradients([6.0, 8.0], [0.3, 0.4]) for _ in range(2))
    norm = clip_gradients(ours, 5.0, "global")
    assert torch.isclose(norm, nn.utils.clip_grad_norm_(theirs, 5.0))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_no_clipping_only_measures_and_parameters_without_gradient_are_passed_over():
    (large,) = with_gradients([6.0, 8.0])
    assert clip_gradients([large, nn.Parameter(torch.ones(2))], 1.0, "none").item() == 10
    torch.testing.assert_close(large.grad, torch.tensor([6.0, 8.0]))
    assert clip_gradients([], 1.0, "global").item() == 0


def test_biases_norms_and_frozen_gains_do_not_decay_but_embeddings_and_weights_do():
    backbone = create_model("timesformer_tiny", depth=1, image_pixels=32)
    head = ProjectionHead(192, num_prototypes=8, hidden=16, bottleneck=4)
    module = nn.ModuleDict({"backbone": backbone, "head": head})
    names = {id(p): name for name, p in module.named_parameters()}
    decayed, plain = ({names[id(p)] for p in g["params"]} for g in parameter_groups(module))
    assert all(name.endswith(".bias") or "norm" in name for name in plain)
    assert {"backbone.pos_embed", "backbone.cls_token", "head.last_layer.weight_v"} <= decayed
    assert "head.last_layer.weight_g" not in decayed | plain  # fixed at 1
    assert len(decayed) + len(plain) + 1 == len(names)


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"epochs": float("inf")}, {"batch_size": 0}, {"accumulate": 0},
     {"warmup_epochs": 99}, {"lr_per_256": 0.0}, {"clip_norm": 0.0},
     {"weight_decay": (-1.0, 0.0)}, {"freeze_last_layer_epochs": -1}],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"optim\.{next(iter(changes))}"):
        OptimConfig(**changes)


def test_epochs_that_are_no_number_are_not_blamed_on_the_warm_up():
    with pytest.raises(
        ConfigError, match=r"^optim\.epochs is nan; give a finite number above 0\.$"
    ):
        OptimConfig(epochs=float("nan"))
