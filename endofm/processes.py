"""Collectives that do nothing in a run of one process."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce as all_reduce_with_gradient


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


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, on each of them; gradients flow to all."""
    if num_processes() == 1:
        return tensor
    total: Tensor = all_reduce_with_gradient(tensor)  # type: ignore[no-untyped-call]
    return total / num_processes()


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
