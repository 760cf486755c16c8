import dataclasses
import json

import pytest
import torch

from endofm import hub
from endofm.data.pretraining.views import ViewsConfig
from endofm.errors import ConfigError
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining.endofm import ObjectiveConfig, build_task
from endofm.tasks.pretraining.vcl import ConceptTask
from pretrain.train import train
from tests.small import small_recipe, write_corpus

VIEWS = ViewsConfig(global_frames=(4, 4), local_frames=(), global_pixels=32, local_pixels=16)
OBJECTIVE = ObjectiveConfig(kind="vcl", prototypes=8, teacher_momentum=0.9)


def build():
    torch.manual_seed(0)
    model = ModelConfig(name="timesformer_mini", patch_pixels=8, drop_path=0.0)
    task, _ = build_task(model, VIEWS, OBJECTIVE)
    assert isinstance(task, ConceptTask)
    return task


def clips(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 3, 4, 32, 32, generator=draw) for _ in range(2)]


def test_every_part_of_the_student_learns_and_the_average_only_follows():
    task = build()
    before = task.teacher.static.concepts.clone()
    optimizer = torch.optim.SGD(task.student.parameters(), lr=0.1)
    task(clips(), 2, 0.04).total.backward()
    # the projections' outputs are standardised or normalised away from these alone
    idle = {name for name, p in task.student.named_parameters() if p.grad is None}
    assert not idle
    silent = {n for n, p in task.student.named_parameters() if not p.grad.abs().sum() > 0}
    assert not {n for n in silent if "norm" not in n and "temporal" not in n and "qkv" not in n}
    assert all(p.grad is None for p in task.teacher.parameters())
    optimizer.step()
    task.finish_step(0.9)
    expected = before.lerp(task.student.static.concepts.detach(), 0.1)
    torch.testing.assert_close(task.teacher.static.concepts, expected)


def test_the_loss_falls_on_a_few_clips():
    task = build()
    views = clips()
    views[1] = views[0] + 0.1 * views[1]  # the same videos
    optimizer = torch.optim.AdamW(task.student.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        output = task(views, 2, 0.04)
        output.total.backward()
        optimizer.step()
        losses.append(output.total.item())
    assert losses[-1] < 0.6 * losses[0]
    assert set(output.scalars()) >= {"loss", "static", "dynamic", "contrast", "fidelity"}


def test_static_concepts_are_led_by_one_frame_and_dynamic_ones_by_changes():
    task = build().eval()
    views = clips()
    still = [view[:, :, 2:3].expand(-1, -1, 4, -1, -1).contiguous() for view in views]
    seen = []
    task.student.backbone.register_forward_pre_hook(lambda module, given: seen.append(given))
    task(still, 2, 0.04)
    frames, changes = seen[0][:2], seen[0][2:]
    assert all(clip.shape[2] == 1 and torch.equal(clip, view[:, :, 2:3]) for clip, view in
               zip(frames, views, strict=True))  # fmt: skip
    assert all(clip.shape[2] == 3 and not clip.any() for clip in changes)


def test_the_pretraining_program_runs_it_by_one_key_and_exports_a_backbone(tmp_path):
    manifest = write_corpus(tmp_path / "corpus")
    config = small_recipe(manifest, tmp_path / "run", views=VIEWS, objective=OBJECTIVE)
    folder = train(config)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    told = [row for row in rows if "static" in row]
    assert told and all(row["loss"] > 0 and "contrast" in row for row in told)
    model = hub.load(folder)
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, model.width)


def test_views_that_it_has_no_use_for_are_refused(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", num_clips=1)
    for changed in (
        {"local_frames": (2, 2)},
        {"global_frames": (1, 4)},
        {"global_frames": (4,) * 3},
    ):
        views = dataclasses.replace(VIEWS, **changed)
        with pytest.raises(ConfigError, match="compares two global views of at least two frames"):
            small_recipe(manifest, tmp_path / "run", views=views, objective=OBJECTIVE)
