import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from endofm.data.pretraining.loader import Batch
from endofm.errors import RunError
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining import endofm as pretraining
from endofm.tasks.pretraining.endofm import ObjectiveConfig, PretrainingStep, build_task
from endofm.training.optim import OptimConfig, adamw
from endofm.training.schedules import ScheduleValues
from tests.small import VIEWS

NOW = ScheduleValues(
    1e-3, 0.04, teacher_momentum=0.9, teacher_temperature=0.04, trains_last_layer=True
)


def make_step(precision="no", scale=None):
    """A step of a small network; `scale` starts the loss scaler that a GPU would have."""
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    if scale is not None:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=2.0**-8)
        accelerator.native_amp = True
    torch.manual_seed(0)
    model = ModelConfig(name="timesformer_mini", patch_pixels=8, drop_path=0.0)
    core, _ = build_task(model, VIEWS, ObjectiveConfig(prototypes=32))
    task, optimizer = accelerator.prepare(core, adamw(core))
    return PretrainingStep(accelerator, task, core, optimizer, VIEWS, OptimConfig())


def make_batches(count=2):
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            [torch.randint(0, 256, (2, t, p, p, 3), dtype=torch.uint8, generator=generator)
             for t, p in VIEWS.shapes],
            [torch.eye(3, 4).expand(2, 3, 4) for _ in VIEWS.shapes],
            ["a", "b"],
            [],
        )
        for _ in range(count)
    ]  # fmt: skip


def moments(step):
    state = step.optimizer.state_dict()["state"]
    return [value for entry in state.values() for value in entry.values()]


def test_steps_that_overflow_float16_move_nothing_but_the_loss_scale(monkeypatch):
    seen = []
    real = pretraining.network_views
    monkeypatch.setattr(
        pretraining, "network_views", lambda batch, *rest: seen.append(batch) or real(batch, *rest)
    )
    overflowing, batches = make_step("fp16", scale=2.0**40), make_batches()
    outputs, scalars = overflowing(batches, NOW)
    scale = overflowing.accelerator.scaler.get_scale()
    assert scale < 2.0**40 and len(seen) > 2 and len(outputs) == 2
    assert all(one is batches[number % 2] for number, one in enumerate(seen))
    smooth = make_step("fp16", scale=scale)
    smooth_outputs, smooth_scalars = smooth(batches, NOW)
    assert smooth.accelerator.scaler.get_scale() == scale
    one, two = overflowing.core.state_dict(), smooth.core.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    pairs = zip(moments(overflowing), moments(smooth), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert scalars["loss"] == smooth_scalars["loss"] and scalars["gradient_norm"].isfinite()
    assert torch.equal(outputs[0].total, smooth_outputs[0].total)


def test_skipped_updates_leave_student_teacher_and_centre_where_they_were(monkeypatch):
    monkeypatch.setattr("endofm.training.step.MAX_SKIPPED", 2)
    step = make_step("fp16", scale=2.0**60)
    before = copy.deepcopy(step.core.state_dict())
    with pytest.raises(RunError, match="bf16"):
        step(make_batches(), NOW)
    after = step.core.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert step.core._num_moved == 0 and not step.core._moved.any()


def test_float32_takes_every_update_at_once():
    step = make_step()
    before = copy.deepcopy(step.core.state_dict())
    outputs, scalars = step(make_batches(), NOW)
    after = step.core.state_dict()
    for name in ("student.backbone.cls_token", "teacher.backbone.cls_token", "center"):
        assert not torch.equal(before[name], after[name]), name
    assert len(outputs) == 2 and scalars["gradient_norm"] > 0


def test_under_bfloat16_loss_centre_weights_and_moments_are_float32():
    half, full = make_step("bf16"), make_step()
    kinds = []
    half.core.student.backbone.blocks[0].mlp.fc1.register_forward_hook(
        lambda module, inputs, output: kinds.append(output.dtype)
    )
    outputs, scalars = half(make_batches(), NOW)
    assert set(kinds) == {torch.bfloat16}
    for name, value in {**outputs[0]._asdict(), **scalars}.items():
        assert value.dtype == torch.float32, name
    assert all(tensor.dtype == torch.float32 for tensor in half.core.state_dict().values())
    assert all(value.dtype == torch.float32 for value in moments(half))
    # the sums over prototypes are float32's: a bfloat16 loss has 3 digits
    loss = outputs[0].total
    assert loss.bfloat16().float() != loss
    _, exact = full(make_batches(), NOW)
    torch.testing.assert_close(scalars["loss"], exact["loss"], rtol=0.02, atol=0)
