"""What the processes of a run share: collectives, which do nothing in a run of one, and a list."""

import hashlib
import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]


def num_processes() -> int:
    """Processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on each of them; the input stays as it is."""
    if num_processes() == 1:
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    """`sum_over_processes` with a gradient: each process's input is in the results of all."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_over_processes(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_processes(gradients[0])


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, on each of them; gradients flow to all."""
    if num_processes() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)
    return total / num_processes()


def join_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all processes, in rank order, [N, ...] -> [processes * N, ...]; with gradients."""
    if num_processes() == 1:
        return tensor
    before = distributed.get_rank()
    after = num_processes() - before - 1
    nothing = torch.zeros_like(tensor)
    joined: Tensor = _Sum.apply(torch.cat([*[nothing] * before, tensor, *[nothing] * after]))
    return joined


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all processes, in rank order: [N, ...] -> [processes * N, ...]."""
    if num_processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_processes())]
    distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_objects(item: Any) -> list[Any]:
    """One small plain object of every process, in rank order."""
    if num_processes() == 1:
        return [item]
    parts: list[Any] = [None] * num_processes()
    distributed.all_gather_object(parts, item)
    return parts


def launcher_list() -> PrefixStore:
    """A connection to keys and values that all processes of this start share.

    The launcher keeps them (torchrun, accelerate), or rank 0 where there is none; they are there
    before the processes are connected. Raises `torch.distributed.DistError` if nobody answers.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
    return PrefixStore(f"endofm/{start}", store)


def is_first_to_say(sentence: str) -> bool:
    """Whether no other process of this start has said the same before."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    key = f"said/{hashlib.sha256(sentence.encode()).hexdigest()}"
    try:
        rank = os.environ["RANK"]
        return bytes(launcher_list().compare_set(key, "", rank)) == rank.encode()
    except (distributed.DistError, KeyError):  # nobody to ask; better told twice than never
        return True
