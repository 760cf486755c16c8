"""What a pretraining run will cost, before it starts: arithmetic, time and memory."""

import copy
import os
import time
from collections.abc import Callable

import torch
from torch import nn

from endofm.models.rpa3d import RPA3DConfig
from endofm.models.timesformer import TimeSformerConfig

MEASURED_SECONDS = 1.0
"""Products that take longer together are not repeated."""
Shape = tuple[int, int]
"""Frames and pixels (height = width) of a view."""


def forward_flops(config: TimeSformerConfig, shape: Shape) -> float:
    """Floating-point operations (2 a multiply-add) of a view's forward pass, class token included.

    Exact for divided space-time attention; `joint_space_time` and `space_only` do without the
    temporal layers and attend differently, which is counted too.
    """
    frames, pixels = shape
    width, patches = config.width, (pixels // config.patch_pixels) ** 2
    tokens = patches * frames
    with_class = tokens + 1
    mlp = 4 * config.mlp_ratio * width**2 * with_class
    in_space = 8 * width**2 * frames * (patches + 1) + 4 * width * frames * (patches + 1) ** 2
    if config.attention == "divided_space_time":
        block = in_space + mlp + 10 * width**2 * tokens + 4 * width * tokens * frames
    elif config.attention == "joint_space_time":
        block = mlp + 8 * width**2 * with_class + 4 * width * with_class**2
    else:
        block = in_space + mlp / with_class * frames * (patches + 1)
    return config.depth * block + 2 * tokens * config.in_channels * config.patch_pixels**2 * width


def step_flops(config: TimeSformerConfig, views: list[Shape], num_global: int) -> float:
    """Operations of one clip's training step: student forward and backward, teacher forward."""
    return 3 * sum(forward_flops(config, view) for view in views) + sum(
        forward_flops(config, view) for view in views[:num_global]
    )


def step_bytes(
    config: TimeSformerConfig,
    views: list[Shape],
    batch_size: int,
    num_parameters: int,
    num_prototypes: int,
    half: bool,
    shards: int = 1,
) -> float:
    """Peak memory of a step, in bytes: parameters with their states, and kept activations.

    Student weight, gradient and two moments and the teacher's weight in float32, in `shards` parts
    of which this is one; of every block about 34 widths a token (19 without the temporal layers)
    are kept for the backward pass, or one with gradient checkpointing, in the precision of the run.
    An estimate: within about a third.
    """
    tokens = sum(frames * (pixels // config.patch_pixels) ** 2 for frames, pixels in views)
    kept = 34 if config.attention == "divided_space_time" else 19
    one_block = kept * tokens * config.width
    blocks = one_block + config.depth * tokens * config.width
    if not config.gradient_checkpointing:
        blocks = config.depth * one_block
    logits = 6 * len(views) * num_prototypes * 4
    pixels_bytes = sum(frames * pixels**2 * 3 * 5 for frames, pixels in views)
    activations = batch_size * (blocks * (2 if half else 4) + logits + pixels_bytes)
    return 20 * num_parameters / shards + activations


def cnn_step_bytes(config: RPA3DConfig, view: Shape, batch_size: int, half: bool) -> float:
    """Kept activations of an RPA 3D CNN's step, in bytes; counted, but for what kernels need.

    Of each place of its map a block keeps about 14 times its filters (7 without attention), the
    stem three times at full size, and the pixels.
    """
    frames, pixels = view
    kept = 14 if config.has_attention else 7
    blocks = sum(kept * width * 0.25**number for number, width in enumerate(config.widths, 1))
    values = config.in_channels + 3 * config.widths[0] + blocks
    return batch_size * frames * pixels**2 * values * (2 if half else 4)


def frames_step_bytes(cnn: nn.Module, view: Shape, batch_size: int, half: bool) -> float:
    """Kept activations of a CNN that sees frames [N, 3, H, W] by themselves, in bytes.

    What its layers give is counted on one frame, without numbers; what the layers after it keep of
    a frame is little.
    """
    frames, pixels = view
    counted: list[int] = []
    without_numbers = copy.deepcopy(cnn).to("meta")
    for module in without_numbers.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(lambda _, given, out: counted.append(out.numel()))
    without_numbers(torch.zeros(1, 3, pixels, pixels, device="meta"))
    return batch_size * frames * sum(counted) * (2 if half else 4)


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def matrix_speed(
    device: torch.device,
    precision: str,
    now: Callable[[], float] = time.perf_counter,
    size: int = 0,
) -> float:
    """Floating-point operations a second of a linear layer here, measured in about a second.

    Of its three products together, forward and backward: where a CPU has no units for bfloat16,
    one of them is dozens of times as slow as another. `size` is the side of the square matrices,
    by default one that a GPU or a CPU reaches its full speed with.
    """
    kinds = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    size = size or (8192 if device.type == "cuda" else 1024)
    rows, weight, gradient = (
        torch.randn(size, size, device=device, dtype=kinds[precision]) for _ in range(3)
    )
    # the layer's output, the gradient of its input, that of its weight
    products = ((rows, weight.T), (gradient, weight), (gradient.T, rows))
    best, began = [float("inf")] * len(products), now()
    for _ in range(5):
        for number, (left, right) in enumerate(products):
            _wait(device)
            start = now()
            left @ right
            _wait(device)
            best[number] = min(best[number], now() - start)
        if now() - began > MEASURED_SECONDS:
            break
    return 2 * size**3 * len(products) / sum(best)


def slow_bf16(device: torch.device, precision: str) -> str:
    """A warning for a run in bf16 on a CPU that is slower at it than at float32, else ""."""
    if device.type != "cpu" or precision != "bf16":
        return ""
    bf16, float32 = (matrix_speed(device, kind, size=512) for kind in ("bf16", "no"))
    if bf16 >= float32:
        return ""
    return (
        f"run.precision is bf16, but matrix products in bf16 run at {bf16 / float32:.2g} times the "
        "speed of float32 ones on this CPU, which has no units for them: a step takes longer, not "
        "shorter; give --run.precision no."
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
