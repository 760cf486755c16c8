"""Weights divided over processes: FSDP 2, as accelerate's own settings ask for it.

`accelerate launch` turns the `fsdp_config` of its file into `ACCELERATE_USE_FSDP` and `FSDP_*`.
Every process then holds a slice of each tensor (a `DTensor`) of weights, gradients and optimizer
state, and a block's tensors are whole only while it computes (Zhao et al.: PyTorch FSDP, VLDB
2023).
"""

import os
import warnings
from typing import TYPE_CHECKING, TypeGuard

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from endofm.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_asked_for() -> bool:
    """Whether the environment asks accelerate to divide weights."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def num_shards() -> int:
    """Parts that the weights of this start are in."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_asked_for() else 1


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """What the environment asks for, as this program needs it; `None` if it asks for nothing.

    Raises `ConfigError` for what divides weights otherwise (FSDP 1, DeepSpeed, Megatron-LM), and
    for settings under which numbers would not be those of whole weights.
    """
    for other in ("DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{other}", "false").lower() == "true":
            raise ConfigError(
                f"ACCELERATE_USE_{other} is set, but weights are divided by FSDP 2 only; write an "
                "fsdp_config in accelerate's configuration instead."
            )
    if not is_asked_for():
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "Weights are divided by FSDP version 2 only; set fsdp_version: 2 in accelerate's "
            "configuration (FSDP_VERSION=2)."
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = FullyShardedDataParallelPlugin(
        cpu_ram_efficient_loading=False,  # for Transformers' models; ours start alike everywhere
        mixed_precision_policy=MixedPrecisionPolicy(),  # autocast decides, as without FSDP
    )
    if plugin.activation_checkpointing or plugin.ignored_modules:
        # accelerate recomputes a block with other random numbers (drop path) than its forward had
        raise ConfigError(
            "fsdp_activation_checkpointing and fsdp_ignored_modules would change the numbers of a "
            "run; leave them out of accelerate's configuration, and set "
            "model.gradient_checkpointing in the recipe."
        )
    return plugin


def start_sharding(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin | None) -> None:
    """See that what was asked for happens.

    Raises `ConfigError` where there are no processes to divide weights over.
    """
    if plugin is None or accelerator.distributed_type == DistributedType.FSDP:
        return
    if accelerator.distributed_type == DistributedType.NO:
        raise ConfigError(
            "ACCELERATE_USE_FSDP divides weights over processes, but this one was started alone; "
            "start it with accelerate launch or torchrun (on CPUs with ACCELERATE_USE_CPU=true), "
            "or unset ACCELERATE_USE_FSDP."
        )
    # On CPUs accelerate (1.15, AcceleratorState) passes over its FSDP settings without a word.
    for state in (PartialState(), accelerator.state):
        state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def prepare(
    accelerator: Accelerator, task: nn.Module, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]:
    """Accelerate's `prepare`, for an optimizer whose learning rate is still 0.

    Where weights are divided, each gets its optimizer state at once, as if new: torch can't load a
    checkpoint that lacks that of a weight, say of the head's last layer while it is frozen.
    """
    with warnings.catch_warnings():  # torch 2.15's, of an argument whose successor older ones lack
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        prepared, wrapped = accelerator.prepare(task, optimizer)
    if accelerator.distributed_type == DistributedType.FSDP:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        for state in optimizer.state.values():
            state["step"].zero_()
    return prepared, wrapped


def refuse_sharding(what: str, why: str) -> None:
    """Raise `ConfigError` if the environment asks to divide weights: `what` can't be had then."""
    if is_asked_for():
        raise ConfigError(
            f"{what} doesn't go with weights divided over processes ({why}); unset "
            "ACCELERATE_USE_FSDP, or give accelerate a configuration without fsdp_config."
        )


def how_weights_are_kept(accelerator: Accelerator) -> str:
    """`whole`, or the kind of a checkpoint of divided weights; it can't be read as another."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return "whole"
    return str(accelerator.state.fsdp_plugin.state_dict_type.name).lower()


def local(tensor: Tensor) -> Tensor:
    """The slice of a divided tensor that is here, sharing its memory; another tensor as it is."""
    return tensor.to_local() if _is_divided(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A divided tensor put together, on all processes: a collective call; another as it is."""
    return tensor.full_tensor() if _is_divided(tensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's `state_dict` with whole tensors; a collective call if they are divided."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


def _is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this is a `DTensor`; importing that class to ask takes a second, so ask its kind."""
    return hasattr(tensor, "full_tensor")
