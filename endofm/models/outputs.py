"""What a model says about clips, computed in one place: features, patch tokens, attention."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from endofm.errors import ConfigError, RunError
from endofm.models.timesformer import TimeSformer

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """Of B clips of T frames; `None` is what was not asked for."""

    features: Floats  # [B, D]
    tokens: Floats | None  # [B, T, h, w, D]
    attention: Floats | None  # [B, T, h, w], as multiples of an even share


def check_model(model: object) -> None:
    """Raise `ConfigError` for what is no backbone of clips, and for one that can't be shown RGB."""
    if not isinstance(model, TimeSformer):
        raise ConfigError(
            f"A {type(model).__name__} gives no features of clips here; load a TimeSformer."
        )
    channels = model.config.in_channels
    if channels != 3:
        raise ConfigError(
            f"The model was made for {channels} channel{'s' if channels > 1 else ''}, but "
            "video is read as RGB, which has 3; choose another model."
        )


@torch.no_grad()
def compute(
    model: TimeSformer,
    clips: npt.NDArray[np.uint8],
    *,
    tokens: bool = False,
    attention: bool = False,
) -> Outputs:
    """A model's outputs for clips uint8 [B, T, H, W, 3], on its device, in its precision.

    It is put into evaluation mode and afterwards left as it was. Raises `RunError`, with the number
    of clips to try, where the GPU has too little memory.
    """
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    try:
        frames = torch.from_numpy(clips).to(parameter.device)
        video = model.input_spec.normalize(frames).to(parameter.dtype)
        patches = maps = None
        if tokens:
            encoded = model.tokens(video)
            features, patches = encoded[:, 0], _on_grid(model, video, encoded)
        else:
            features = model(video)
        if attention:
            maps = class_attention(model, video)
        return Outputs(_array(features), _optional(patches), _optional(maps))
    except torch.OutOfMemoryError as error:
        raise RunError(_hint(clips.shape)) from error
    finally:
        model.train(was_training)


def patch_tokens(model: TimeSformer, video: Tensor) -> Tensor:
    """Patch tokens after the last norm: [B, 3, T, H, W] -> [B, T, h, w, D]."""
    return _on_grid(model, video, model.tokens(video))


def class_attention(model: TimeSformer, video: Tensor) -> Tensor:
    """How much the class token takes from each patch in the last block, mean of its heads.

    [B, 3, T, H, W] -> [B, T, h, w], as multiples of an even share (1 / number of tokens).
    """
    rows, columns = _grid(model, video)
    maps = model.attention(video).mean(dim=1)  # [B or B T, tokens, tokens]
    of_class = maps[:, 0, 1:] * maps.shape[-1]
    if model.config.attention == "joint_space_time":
        return rearrange(of_class, "b (h w t) -> b t h w", h=rows, w=columns)
    return rearrange(of_class, "(b t) (h w) -> b t h w", b=video.shape[0], h=rows)


def _on_grid(model: TimeSformer, video: Tensor, encoded: Tensor) -> Tensor:
    rows, columns = _grid(model, video)
    return rearrange(encoded[:, 1:], "b (h w t) d -> b t h w d", h=rows, w=columns)


def _grid(model: TimeSformer, video: Tensor) -> tuple[int, int]:
    side = model.config.patch_pixels
    return video.shape[-2] // side, video.shape[-1] // side


def _optional(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else _array(tensor)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def _hint(shape: tuple[int, ...]) -> str:
    num_clips, num_frames, height, width, _ = shape
    full = (
        f"The GPU has too little memory for {num_clips} clips of {num_frames} frames of "
        f"{width} x {height} px at once"
    )
    if num_clips == 1:
        return f"{full.replace('1 clips', '1 clip')}; use another GPU, bfloat16 or the CPU."
    return f"{full}; try batch_size={num_clips // 2} (--batch-size {num_clips // 2})."
