import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors are faster on one thread, and the suite runs on several processes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its first settings for the life of a process."""
    yield
    AcceleratorState._reset_state(True)
