import pytest
import torch

from endofm.training import estimate
from endofm.training.estimate import matrix_speed, slow_bf16

CPU = torch.device("cpu")


def with_speeds(monkeypatch, **speeds):
    monkeypatch.setattr(estimate, "matrix_speed", lambda device, kind, **_: speeds[kind])


def test_a_matrix_speed_is_that_of_output_and_both_gradients(monkeypatch):
    taken = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.mm.default:
                taken.append([one.is_contiguous() for one in args])
            return func(*args, **(kwargs or {}))

    clock = iter(range(1000))
    with Seen():
        speed = matrix_speed(CPU, "no", lambda: next(clock), size=8)
    assert taken == [[True, False], [True, True], [False, True]]  # slow: not repeated
    assert speed == pytest.approx(2 * 8**3)  # by a clock that goes on by 1 at every look


def test_bf16_is_warned_of_only_on_a_cpu_that_is_slower_at_it(monkeypatch):
    with_speeds(monkeypatch, no=100e9, bf16=5e9)
    told = slow_bf16(CPU, "bf16")
    assert "run.precision is bf16" in told and "0.05 times" in told
    assert "a step takes longer" in told and "give --run.precision no" in told
    assert not slow_bf16(CPU, "no") and not slow_bf16(torch.device("cuda"), "bf16")
    with_speeds(monkeypatch, no=100e9, bf16=200e9)
    assert not slow_bf16(CPU, "bf16")
