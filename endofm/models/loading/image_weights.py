"""Image ViT weights as the start of a video model.

What happens in space is copied; what happens in time starts as the identity: `temporal_fc` of every
block and the time embedding are zero (the temporal attention behind them keeps its random start).
So on a still clip (one frame, repeated) the fresh video model gives what the image model gives for
the frame, with divided attention and with `space_only`. With `joint_space_time` that holds for a
single frame only: several frames are several times as many keys, and the class token, of which
there is one, gets a smaller share of the attention.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from endofm.errors import WeightsError
from endofm.models.layers import resize_positions
from endofm.models.loading.layouts import Recognized, recognize
from endofm.models.loading.weight_files import reason
from endofm.models.loading.weights import LoadReport, compare, read_checkpoint, some, why_left_out
from endofm.models.timesformer import DividedBlock, TimeSformer, TimeSformerConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

PLAIN = "vit_base_patch16_224.dino"
FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
STARTS_OF_TIME = {  # a part of a name -> how that starts, as no image weights have it
    "temporal_norm1.": "as new",
    "temporal_attn.": "at random",
    "temporal_fc.": "zero: time starts as the identity",
    "time_embed": "zero: time starts as the identity",
}
FOLDED = "LayerScale, folded into the layer before it"
FOREIGN = {  # a pattern in the names -> a part that a TimeSformer has no place for
    r"^(reg_token|register_tokens)": "register tokens",
    r"^(dist_token|head_dist)": "a distillation token",
    r"^norm_pre\.": "a norm before the first block (pre-norm, as CLIP)",
    r"\.(q_norm|k_norm)\.": "normalised queries and keys (qk_norm)",
    r"^blocks\.\d+\.mlp\.(?!fc[12]\.(weight|bias)$)": "an MLP not of two linear layers (SwiGLU)",
}
NEEDED = {
    "cls_token": "a class token",
    "pos_embed": "a position embedding under timm's name (pos_embed)",
    "patch_embed.proj.weight": "a patch embedding under timm's name (patch_embed.proj)",
    "norm.weight": "a norm on its tokens before pooling (norm)",
}


@dataclass(frozen=True)
class ImageWeights:
    """The tensors of an image ViT, and what is known beside them."""

    name: str
    tensors: dict[str, Tensor]
    network: nn.Module | None = None
    """The image ViT itself; `None` where only a file is there."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Name -> name in the file, where they differ."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Entries of the file beside the network, and why they are left."""
    started: Mapping[str, str] = field(default_factory=dict)
    """Tensors that were made for the file, which lacks them by its design, and how."""


def load_image_weights(
    model: TimeSformer, source: str | Path | nn.Module | ImageWeights
) -> LoadReport:
    """Puts the weights of an image ViT into `model`; its temporal parts start as the identity.

    `source` is a timm model name (its weights are downloaded), a weight file with timm's names
    (DINO's and DINOv2's are the same), or a timm `VisionTransformer`. The position embedding is
    resized to the model's grid (bicubic); LayerScale is folded into the layer before it. Raises
    `WeightsError`, before anything is changed, where the two don't compute the same. A file does
    not tell its heads, activation and LayerNorm eps; they are checked for names and modules only.
    """
    image = source if isinstance(source, ImageWeights) else _find(source, model.config)
    own = model.state_dict()
    spatial, report = fit_image_weights(image, model.config, own)
    if report.missing or report.unknown:
        raise WeightsError(
            f"{image.name} is not a plain ViT (missing: {some(report.missing) or 'nothing'}; "
            f"without a place: {some(report.unknown) or 'nothing'}); give one with timm's names, "
            f"such as {PLAIN}."
        )
    for key, (given, wanted) in report.misshapen.items():
        raise WeightsError(
            f"{key} is {given} in {image.name} but {wanted} in the model; make the model with the "
            "sizes of the weights."
        )
    model.load_state_dict(own | spatial, strict=True)
    _start_time_as_identity(model)
    return report


def fit_image_weights(
    image: ImageWeights, config: TimeSformerConfig, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], LoadReport]:
    """An image ViT's tensors as the model with this configuration takes them, and their places.

    `own` are the model's tensors, of which only names and shapes matter. Raises `WeightsError`
    where the two compute something else.
    """
    refuse_what_differs(image, config)
    spatial = {
        name: tensor.detach().float()
        for name, tensor in image.tensors.items()
        if why_left_out(name) is None
    }
    scales = _fold_layer_scale(spatial)
    spatial["pos_embed"] = _fitted_positions(image, config)
    in_time = {name: how for name in own for part, how in STARTS_OF_TIME.items() if part in name}
    left_out = {
        image.names.get(name, name): why
        for name in image.tensors
        if (why := why_left_out(name)) is not None
    }
    folded = {image.names.get(name, name): FOLDED for name in scales}
    beside = {**left_out, **folded, **image.left_out}
    return spatial, compare(own, spatial, image.names, beside, {**image.started, **in_time})


def _start_time_as_identity(model: TimeSformer) -> None:
    with torch.no_grad():
        if model.time_embed is not None:
            model.time_embed.zero_()
        for block in model.blocks:
            if isinstance(block, DividedBlock):
                block.temporal_fc.weight.zero_()
                block.temporal_fc.bias.zero_()


def _fold_layer_scale(tensors: dict[str, Tensor]) -> list[str]:
    """LayerScale multiplies a branch's output; so do the weights of the branch's last layer."""
    scales = [name for name in tensors if re.search(r"\.ls[12]\.gamma$", name)]
    for name in scales:
        block, scale, _ = name.rsplit(".", 2)
        layer = f"{block}.attn.proj" if scale == "ls1" else f"{block}.mlp.fc2"
        gamma = tensors.pop(name)
        for part, factor in ((f"{layer}.weight", gamma[:, None]), (f"{layer}.bias", gamma)):
            if part in tensors:
                tensors[part] = tensors[part] * factor
    return scales


def _fitted_positions(image: ImageWeights, config: TimeSformerConfig) -> Tensor:
    positions = image.tensors["pos_embed"].detach().float()
    places = positions.shape[1]
    if is_vit(image.network):
        rows, columns = image.network.patch_embed.grid_size
    else:  # a file: a square grid, with a place for the class token or without
        rows = columns = math.isqrt(places)
    if places == rows * columns:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif places != rows * columns + 1:
        raise WeightsError(
            f"pos_embed of {image.name} has {places} places, which is no square grid of patches; "
            "give a timm VisionTransformer, which knows its grid."
        )
    return resize_positions(positions, (rows, columns), config.grid, "smooth")


def _find(source: str | Path | nn.Module, config: TimeSformerConfig) -> ImageWeights:
    if isinstance(source, nn.Module):
        return _of_network(f"the given {type(source).__name__}", source)
    if Path(source).suffix in FILE_SUFFIXES or Path(source).is_file():
        return image_of_file(recognize(read_checkpoint(source)), str(source))
    refuse_what_differs(untrained_image(str(source)), config)  # before anything is downloaded
    return download_image(str(source))


def image_of_file(found: Recognized, name: str) -> ImageWeights:
    """A recognized file's tensors as an image ViT."""
    return ImageWeights(name, found.tensors, None, found.names, found.left_out, found.started)


def untrained_image(name: str) -> ImageWeights:
    """The network of timm by that name, untrained; raises `WeightsError`, naming the nearest."""
    import timm

    try:
        return _of_network(name, timm.create_model(name))
    except Exception as error:  # timm has no error of its own for an unknown name
        near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained())
        meant = f"did you mean {' or '.join(near)}" if near else "timm.list_pretrained() lists them"
        raise WeightsError(
            f"{name!r} is neither a file nor a model of timm ({reason(error)}); {meant}."
        ) from error


def download_image(name: str) -> ImageWeights:
    """The network of timm by that name with its weights, downloaded or from timm's cache."""
    import timm

    try:
        return _of_network(name, timm.create_model(name, pretrained=True))
    except Exception as error:  # no network, no disk, no such weights: each has its own kind
        raise WeightsError(
            f"The weights {name!r} can't be downloaded ({reason(error)}); get them where there is "
            "a network and give the .safetensors or .pth file instead."
        ) from error


def is_vit(network: nn.Module | None) -> "TypeGuard[VisionTransformer]":
    """Whether a network is timm's plain ViT (or of a class derived from it)."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(network, VisionTransformer)


def _of_network(name: str, network: nn.Module) -> ImageWeights:
    return ImageWeights(name, dict(network.state_dict()), network)


def refuse_what_differs(image: ImageWeights, config: TimeSformerConfig) -> None:
    """Raises `WeightsError` where the image ViT computes something else than such a TimeSformer."""
    refuse_other_parts(image)
    _refuse_other_sizes(image, config)
    if is_vit(image.network):
        _refuse_other_network(image.name, image.network, config)


def refuse_other_parts(image: ImageWeights) -> None:
    """Raises `WeightsError` for a part that no TimeSformer has, or one that it must have."""
    network = image.network
    if network is not None and not is_vit(network):
        raise WeightsError(
            f"{image.name} is a {type(network).__name__}, not timm's plain VisionTransformer; "
            f"choose one, such as {PLAIN}."
        )
    for pattern, what in FOREIGN.items():
        if any(re.search(pattern, name) for name in image.tensors):
            raise WeightsError(
                f"{image.name} has {what}, for which a TimeSformer has no place; "
                f"choose a plain ViT, such as {PLAIN}."
            )
    for name, what in NEEDED.items():
        if name not in image.tensors:
            raise WeightsError(f"{image.name} lacks {what}; choose a ViT with it, such as {PLAIN}.")


def _refuse_other_sizes(image: ImageWeights, config: TimeSformerConfig) -> None:
    tensors = image.tensors
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    patch = tensors["patch_embed.proj.weight"]
    for setting, given, own in (
        ("width", tensors["cls_token"].shape[-1], config.width),
        ("depth", len(blocks), config.depth),
        ("in_channels", patch.shape[1], config.in_channels),
        ("patch_pixels", patch.shape[-1], config.patch_pixels),
    ):
        _refuse_difference(image.name, setting, given, own)
    widen, narrow = (tensors.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    if widen is not None and narrow is not None and widen.shape[0] != narrow.shape[1]:
        raise WeightsError(
            f"{image.name} has a gated MLP (SwiGLU or the like), for which a TimeSformer has no "
            f"place; choose a plain ViT, such as {PLAIN}."
        )


def _refuse_other_network(
    name: str, network: "VisionTransformer", config: TimeSformerConfig
) -> None:
    """What names and shapes don't tell: they may agree and the network compute something else."""
    from timm.layers import GELU, Mlp
    from timm.models.vision_transformer import Attention, Block

    for block in network.blocks:
        for part, kind in ((block, Block), (block.attn, Attention), (block.mlp, Mlp)):
            if type(part) is not kind:
                raise WeightsError(
                    f"{name} has a {type(part).__name__} where a plain ViT has timm's "
                    f"{kind.__name__}; choose a plain ViT, such as {PLAIN}."
                )
        act = block.mlp.act
        if not isinstance(act, nn.GELU | GELU) or getattr(act, "approximate", "none") != "none":
            raise WeightsError(
                f"{name} has the activation {type(act).__name__}, a TimeSformer the exact GELU; "
                f"choose a ViT with that, such as {PLAIN}."
            )
        _refuse_difference(name, "num_heads", block.attn.num_heads, config.num_heads)
        for norm in (block.norm1, block.norm2, network.norm):
            _refuse_difference(name, "layer_norm_eps", norm.eps, config.layer_norm_eps)


def _refuse_difference(name: str, setting: str, given: float, own: float) -> None:
    if given != own:
        raise WeightsError(
            f"{name} has {setting} {given} but the model {own}; make the model with "
            f"{setting}={given} or choose other weights."
        )
