"""Ours and the plain reference compute the same."""

import copy

import pytest
import torch

from endofm.bench.clock import Clock
from endofm.bench.reference_network import plain_features
from endofm.bench.reference_views import plain_clip_views
from endofm.bench.steps import OurStep, PlainStep, plain_loss
from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import DataConfig, clip_views
from endofm.data.pretraining.views import STATISTICS, ViewsConfig
from endofm.data.transforms import to_network_input
from endofm.heads.projection import ProjectionHead
from endofm.losses.dino import centered_targets, dino_loss
from endofm.models.packing import in_packs
from endofm.models.registry import create_model
from endofm.tasks.pretraining.endofm import ObjectiveConfig, PretrainingTask
from tests.make import write_video

CPU = torch.device("cpu")
SHAPES = [(8, 64), (16, 64), (2, 32), (2, 32), (4, 32), (4, 32), (8, 32), (8, 32), (16, 32)]


def make_task(drop_path=0.0, **changes):
    torch.manual_seed(0)
    settings = {"width": 64, "depth": 3, "num_heads": 4, "image_pixels": 64} | changes
    backbone = create_model("timesformer_mini", drop_path=drop_path, **settings)
    for block in backbone.blocks:  # starts at zero, where nothing before it would move
        torch.nn.init.normal_(block.temporal_fc.weight, std=0.1)
    head = ProjectionHead(64, num_prototypes=48, hidden=64, bottleneck=16)
    return PretrainingTask(backbone, head, ObjectiveConfig(prototypes=48))


def make_views(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, t, p, p, generator=generator) for t, p in SHAPES]


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def without_keys(name, tensor):
    """A shift of all keys changes nothing: the key third of a bias has only noise for gradient."""
    if not name.endswith("qkv.bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


def gradients_of(task, step, views, precision="no"):
    """Losses and gradients: the step without its update."""
    found = {}

    def keep(*_, **__):
        for name, parameter in task.student.named_parameters():
            if parameter.grad is not None:
                found[name] = without_keys(name, parameter.grad.clone())

    step.optimizer.register_step_pre_hook(keep)
    return step(views, precision), found


def test_a_step_has_the_losses_and_gradients_of_the_plain_one():
    ours, plain = make_task(), make_task()
    loss, gradients = gradients_of(ours, OurStep(ours, 2, Clock(CPU)), make_views())
    plain_one, expected = gradients_of(plain, PlainStep(plain, 2, Clock(CPU)), make_views())
    assert loss.item() == pytest.approx(plain_one.item(), rel=1e-6)
    assert set(gradients) == set(expected) and len(gradients) > 60
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[name]) < 1e-5, name


def test_parameters_and_centre_are_those_of_the_plain_one_after_three_steps():
    ours, plain = make_task(), make_task()
    our_step, plain_step = OurStep(ours, 2, Clock(CPU)), PlainStep(plain, 2, Clock(CPU))
    start = copy.deepcopy(ours.state_dict())
    for seed in range(3):
        our_step(make_views(seed=seed), "no")
        plain_step(make_views(seed=seed), "no")
    expected = plain.state_dict()
    for name, tensor in ours.state_dict().items():
        tensor, other = without_keys(name, tensor), without_keys(name, expected[name])
        # AdamW divides a gradient by its size: of a small one, rounding shows.
        assert relative_error(tensor, other) < 1e-4, name
    moved = [
        name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, start[name])
    ]
    assert len(moved) > 120


def test_the_feature_is_the_plain_one_for_any_shape():
    backbone = make_task().student.backbone.eval()
    for shape in [(2, 3, 1, 64, 64), (1, 3, 5, 32, 48)]:
        given = torch.randn(*shape)
        assert relative_error(backbone(given), plain_features(backbone, given)) < 1e-5


def test_clips_given_together_are_those_given_one_by_one():
    backbone = make_task().student.backbone.eval()
    views = make_views()
    alone = torch.cat([backbone(view) for view in views])
    assert relative_error(backbone(*views), alone) < 1e-6


def test_checkpointing_packs_smaller_but_computes_the_same():
    views, gradients = make_views(), []
    packs = [[tuple(view.shape[2:4]) for view in pack] for pack in in_packs(views)]
    assert packs[:2] == [SHAPES[:1], SHAPES[1:2]] and packs[2:] == [SHAPES[2:]]
    for recompute in (False, True):
        task = make_task(gradient_checkpointing=recompute)
        gradients.append(gradients_of(task, OurStep(task, 2, Clock(CPU)), views)[1])
    for name, gradient in gradients[0].items():
        assert relative_error(gradients[1][name], gradient) < 1e-5, name


def test_the_loss_in_one_pass_is_the_mean_over_the_pairs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(n, 3, 40, generator=generator) for n in (10, 2))
    center = torch.randn(1, 40, generator=generator)
    ours = dino_loss(student, centered_targets(teacher, center, 0.04), 0.1).total
    assert ours.item() == pytest.approx(plain_loss(student, teacher, center, 0.04).item(), rel=1e-6)


def test_bf16_gradients_are_the_float32_ones_tensor_by_tensor():
    """A norm over the whole gradient would not see a wrong LayerNorm."""
    task = make_task()
    _, low = gradients_of(task, OurStep(task, 2, Clock(CPU)), make_views(), "bf16")
    task = make_task()
    _, full = gradients_of(task, OurStep(task, 2, Clock(CPU)), make_views())
    assert set(low) == set(full)
    assert sum("norm" in name for name in low) == 3 * 3 * 2 + 2
    for name, gradient in low.items():
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, full[name]) < 0.05, name


@pytest.mark.parametrize(("quirks", "most", "mean"), [("none", 4, 0.6), ("released", 4, 0.6)])
def test_views_are_the_plain_ones_within_rounded_pixels(tmp_path, quirks, most, mean):
    """`most` and `mean` in grey levels of 256: pixels are rounded, then stretched by colour."""
    write_video(tmp_path / "clip.mp4", 40, size=(120, 160))
    segment = Segment(tmp_path, "clip.mp4")
    config = ViewsConfig(global_pixels=96, local_pixels=48, quirks=quirks)
    data = DataConfig(short_side_pixels=100)
    mean_rgb, std_rgb = (torch.tensor(values) for values in STATISTICS[config.statistics])
    ours = clip_views(segment, config, data, seed=1, epoch=0)
    plain = plain_clip_views(segment, config, data, seed=1, epoch=0)
    assert len(ours) == len(plain) == 10
    for view, expected in zip(ours, plain, strict=True):
        given = to_network_input(view.frames[None], view.color[None], mean_rgb, std_rgb)[0]
        levels = (given - expected).abs() * std_rgb[:, None, None, None] * 255
        assert levels.max() < most and levels.mean() < mean
