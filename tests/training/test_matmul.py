import pytest
import torch

from endofm.training import matmul


@pytest.fixture(autouse=True)
def setting_as_before():
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_products_are_as_exact_as_float32_whatever_was_chosen():
    chosen = matmul.use_fast_products()
    assert (torch.backends.mkldnn.matmul.fp32_precision == "bf16") is chosen
    assert matmul.largest_error() < 2e-6


def test_a_cpu_that_would_round_keeps_its_default(monkeypatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(matmul, "largest_error", lambda: 2e-3)
    assert matmul.use_fast_products() is False
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_the_error_of_rounded_products_is_seen(monkeypatch):
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda x, w, b: linear(x.bfloat16().float(), w.bfloat16().float(), b),
    )
    assert matmul.largest_error() > 1e-3
