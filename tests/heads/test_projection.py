import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from endofm.errors import ConfigError
from endofm.heads.projection import ProjectionHead
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from tests.shared import shared_folder


def test_head_has_the_published_names():
    head = ProjectionHead(8, num_prototypes=10, hidden=6, bottleneck=4)
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == {
        "mlp.0.weight": (6, 8),
        "mlp.0.bias": (6,),
        "mlp.2.weight": (6, 6),
        "mlp.2.bias": (6,),
        "mlp.4.weight": (4, 6),
        "mlp.4.bias": (4,),
        "last_layer.weight_g": (10, 1),
        "last_layer.weight_v": (10, 4),
    }


def test_scores_are_cosines_to_the_prototypes():
    torch.manual_seed(0)
    head = ProjectionHead(8, num_prototypes=10, hidden=6, bottleneck=4)
    features = torch.randn(3, 8)
    prototypes = head.last_layer.weight_v
    cosines = F.cosine_similarity(head.mlp(features)[:, None], prototypes[None], dim=-1)
    assert torch.allclose(head(features), cosines, atol=1e-6)


def test_the_gain_is_fixed_and_all_else_learns():
    head = ProjectionHead(8, num_prototypes=10, hidden=6, bottleneck=4)
    (head(torch.randn(3, 8)) * torch.randn(3, 10)).sum().backward()
    assert (head.last_layer.weight_g == 1).all()
    still = [name for name, p in head.named_parameters() if p.grad is None]
    assert still == ["last_layer.weight_g"]
    assert all(p.grad.any() for p in head.parameters() if p.requires_grad)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_any_number_of_layers_can_be_built(layers):
    head = ProjectionHead(8, num_prototypes=10, hidden=6, bottleneck=4, num_layers=layers)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in head.mlp) == layers
    assert head(torch.randn(2, 8)).shape == (2, 10)


def test_a_head_without_layers_is_refused():
    with pytest.raises(ConfigError, match="0 layers; each must be at least 1"):
        ProjectionHead(8, num_layers=0)


def test_a_standardised_head_sees_differences_between_clips_only():
    torch.manual_seed(0)
    head = ProjectionHead(8, 10, hidden=6, bottleneck=4, standardize=True)
    features = torch.randn(5, 8, requires_grad=True)
    scores = head(features)
    assert torch.allclose(head(7 + 3 * features), scores, atol=1e-4)
    rows = head.standardize(features)
    assert torch.allclose(rows.mean(0), torch.zeros(8), atol=1e-6)
    assert torch.allclose(rows.std(0, correction=0), torch.ones(8), atol=1e-3)
    (gradient,) = torch.autograd.grad((scores * torch.randn(5, 10)).sum(), features)
    assert torch.allclose(gradient.sum(0), torch.zeros(8), atol=1e-5)  # a common shift is nothing
    assert list(head.state_dict()) == list(ProjectionHead(8, 10, 6, 4).state_dict())


@pytest.mark.golden
def test_backbone_and_head_score_ten_views_as_the_released_student():
    with safe_open(shared_folder("golden", "training_steps.safetensors"), "pt") as file:
        golden = {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith(("student0.", "step0."))
        }
    config = TimeSformerConfig(width=48, depth=2, num_heads=4, image_pixels=48, drop_path=0)
    parts = {"backbone": TimeSformer(config), "head": ProjectionHead(48, 96, 64, 32)}
    for part, module in parts.items():
        start = f"student0.{part}."
        weights = {n.removeprefix(start): t for n, t in golden.items() if n.startswith(start)}
        module.load_state_dict(weights, strict=True)
    with torch.no_grad():
        views = [golden[f"step0.view{view}"] for view in range(10)]
        scores = torch.cat([parts["head"](parts["backbone"](view)) for view in views])
    expected = golden["step0.student_output"]
    assert (scores - expected).norm() / expected.norm() < 1e-5
