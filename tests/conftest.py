import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors are faster on one thread, and the suite runs on several processes."""
    torch.set_num_threads(1)
