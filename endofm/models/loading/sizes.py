"""A TimeSformer's configuration, read from the shapes of its tensors."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from endofm.errors import ConfigError, WeightsError
from endofm.models.timesformer import AttentionType, TimeSformerConfig

HEAD_WIDTH = 64
"""Width of a head in every published ViT of this family: the rule where a file tells no heads."""
MAX_WIDTH = 16_384
MAX_DEPTH = 1_000
SHAPES = {  # tensors that tell the sizes -> their number of dimensions
    "cls_token": 3,
    "pos_embed": 3,
    "patch_embed.proj.weight": 4,
    "blocks.0.mlp.fc1.weight": 2,
}


@dataclass(frozen=True)
class LoadOptions:
    """What tensors don't tell, where the rule or the kind of file is not right."""

    num_heads: int | None = None
    """Attention heads; by default the width over 64."""
    layer_norm_eps: float | None = None
    """Added to the variance in every LayerNorm; by default 1e-6, as in the whole family."""
    mean: tuple[float, float, float] | None = None
    """Mean of the input; by default that of the kind of file."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the input; by default that of the kind of file."""


def infer_config(
    tensors: Mapping[str, Tensor], name: str, options: LoadOptions, is_image: bool = False
) -> TimeSformerConfig:
    """The configuration whose TimeSformer these tensors (by our names) fill.

    Image weights get divided attention, 8 frames and smooth resizing. `name` is for messages.
    Raises `WeightsError` where a shape can't be, or the heads can't be known.
    """
    _refuse_shapes(tensors, name)
    width = tensors["cls_token"].shape[-1]
    patch = tensors["patch_embed.proj.weight"]
    times = tensors.get("time_embed")
    depth = 1 + max(int(number[1]) for key in tensors if (number := _block(key)))
    if width > MAX_WIDTH or depth > MAX_DEPTH:
        raise WeightsError(
            f"{name} declares a width of {width} and {depth} blocks (at most {MAX_WIDTH} and "
            f"{MAX_DEPTH}); it is broken or not meant well."
        )
    eps = options.layer_norm_eps
    try:
        return TimeSformerConfig(
            width=width,
            depth=depth,
            num_heads=_heads(width, options.num_heads, name),
            patch_pixels=patch.shape[-1],
            image_pixels=_grid_side(tensors["pos_embed"], name, is_image) * patch.shape[-1],
            num_frames=8 if times is None else times.shape[1],
            mlp_ratio=_ratio(tensors["blocks.0.mlp.fc1.weight"].shape[0], width),
            attention="divided_space_time" if is_image else _attention(tensors),
            layer_norm_eps=1e-6 if eps is None else eps,
            in_channels=patch.shape[1],
            position_resize="smooth" if is_image else "nearest",
        )
    except ConfigError as error:
        raise WeightsError(f"{name} can't be built: {error}") from error


def _block(key: str) -> re.Match[str] | None:
    return re.match(r"blocks\.(\d+)\.", key)


def _refuse_shapes(tensors: Mapping[str, Tensor], name: str) -> None:
    for key, dimensions in SHAPES.items():
        if key not in tensors:
            raise WeightsError(
                f"{name} lacks {key}, from which its sizes are read; it is no whole TimeSformer or "
                "image ViT: get the file anew."
            )
        shape = list(tensors[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise WeightsError(f"{name} has {key} of shape {shape}, which no network here has.")
    patch = list(tensors["patch_embed.proj.weight"].shape)
    if patch[2] != patch[3]:
        raise WeightsError(
            f"{name} cuts patches of {patch[2]} x {patch[3]} px; the backbone's are square."
        )
    times = tensors.get("time_embed")
    if times is not None and (times.ndim != 3 or 0 in times.shape):
        raise WeightsError(
            f"{name} has time_embed of shape {list(times.shape)}, which no network here has."
        )


def _heads(width: int, given: int | None, name: str) -> int:
    if given is not None:
        return given
    if width % HEAD_WIDTH:
        raise WeightsError(
            f"{name} has width {width}, which heads of {HEAD_WIDTH} don't divide, and no file "
            "tells its heads; give num_heads (--num-heads)."
        )
    return width // HEAD_WIDTH


def _grid_side(positions: Tensor, name: str, is_image: bool) -> int:
    places = positions.shape[1]
    side = math.isqrt(places - 1)
    if side and side * side == places - 1:
        return side
    if is_image and math.isqrt(places) ** 2 == places:  # no place for the class token
        return math.isqrt(places)
    raise WeightsError(
        f"{name} has pos_embed for {places} places, which is no class token and a square grid of "
        "patches; the backbone's frames are square."
    )


def _ratio(hidden: int, width: int) -> float:
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _attention(tensors: Mapping[str, Tensor]) -> AttentionType:
    if any(".temporal_" in key for key in tensors):
        return "divided_space_time"
    return "joint_space_time" if "time_embed" in tensors else "space_only"
