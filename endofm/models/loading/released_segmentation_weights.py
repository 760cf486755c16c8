"""The published CVC segmentation weights: which tensor goes where, and loading them."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from endofm.errors import WeightsError
from endofm.models.loading.sizes import HEAD_WIDTH
from endofm.models.loading.weights import LoadReport, compare, misfit, read_tensors
from endofm.models.released_segmentation import (
    STRIDE,
    ReleasedSegmentation,
    ReleasedSegmentationConfig,
)

MARK = "transformer.embeddings.position_embeddings"
UNIT = re.compile(r"hybrid_model\.body\.block(\d+)\.unit(\d+)\.")
NAMES = (  # published -> ours, in this order
    ("transformer.embeddings.", ""),
    ("transformer.encoder.encoder_norm.", "norm."),
    ("transformer.encoder.layer.", "blocks."),
    ("transformer.encoder.", ""),
    ("position_embeddings", "pos_embed"),
    ("patch_embeddings.", "patch_embed."),
    ("hybrid_model.root.gn.", "hybrid_model.stem.norm."),
    ("hybrid_model.root.", "hybrid_model.stem."),
    ("hybrid_model.", "stem.net."),
    ("downsample.weight", "downsample.conv.weight"),
    ("gn_proj.", "downsample.norm."),
    (".gn", ".norm"),
    ("segmentation_head.0.", "head."),
)
LEFT_OUT = {
    r"(transformer\.encoder\.)?pos_embed": "Endo-FM's position embedding; the model has its own",
    r"(transformer\.encoder\.)?time_embed": "Endo-FM's time embedding; the model has none",
    r"(transformer\.encoder\.)?patch_embed\.proj\.\w+": "Endo-FM's patches; the stem replaces them",
    r"(transformer\.encoder\.)?head\..+": "Endo-FM's projection head; no part of the model",
}
"""Tensors that may lie in such a file and take no part, with the reason."""


def own_name(published: str) -> str:
    """Our name of a published tensor."""
    name = UNIT.sub(_stage_and_unit, published)
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name


def read_config(tensors: Mapping[str, Tensor]) -> ReleasedSegmentationConfig:
    """The sizes that the published names and shapes tell; raises `WeightsError` where they don't.

    Width and depth, classes, units of the stem, and the side of the frames. The number of heads is
    in no tensor: heads are 64 wide.
    """
    units = [match.groups() for name in tensors if (match := UNIT.search(name))]
    blocks = {match[1] for name in tensors if (match := re.search(r"encoder\.layer\.(\d+)", name))}
    positions, head = tensors.get(MARK), tensors.get("segmentation_head.0.weight")
    depths = [len({unit for stage, unit in units if stage == number}) for number in "123"]
    is_whole = bool(blocks) and all(depths)
    if positions is None or head is None or (positions.ndim, head.ndim) != (3, 4) or not is_whole:
        raise WeightsError(
            f"These are not the released segmentation weights: {MARK} [1, h w, D], "
            "segmentation_head.0.weight, blocks and the stem's three stages are needed; "
            "download the file again."
        )
    side, width = math.isqrt(positions.shape[1]), positions.shape[2]
    if side * side != positions.shape[1] or width % HEAD_WIDTH:
        raise WeightsError(
            f"{MARK} is {list(positions.shape)} in the weights, but a square number of places and "
            f"a width that {HEAD_WIDTH} divides are needed."
        )
    return ReleasedSegmentationConfig(
        num_classes=head.shape[0],
        width=width,
        depth=len(blocks),
        num_heads=width // HEAD_WIDTH,
        stem_depths=(depths[0], depths[1], depths[2]),
        image_pixels=side * STRIDE,
    )


def account(model: ReleasedSegmentation, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Where each published tensor goes in the model, or why it takes no part; changes nothing."""
    return compare(model.state_dict(), *_places(tensors))


def load_released_tensors(model: ReleasedSegmentation, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Puts published tensors into a model, exactly; says where each went.

    Raises `WeightsError`, before anything is changed, for a tensor that is missing, unknown or of
    another shape.
    """
    own = model.state_dict()
    ours, names, left_out = _places(tensors)
    report = compare(own, ours, names, left_out)
    if not report.is_exact:
        raise WeightsError(
            f"The weights don't fit the released segmentation model: {misfit(report)}; "
            "download the file again."
        )
    model.load_state_dict({name: ours[name] for name in own})
    return report


def load_released_segmentation(path: str | Path) -> ReleasedSegmentation:
    """The published CVC segmentation model in a file, in evaluation mode.

    `model(clip)` gives `[B, T, K, H, W]` for a clip `[B, 3, T, H, W]`, which
    `model.input_spec.normalize(frames)` makes of uint8 frames. Raises `WeightsError`.
    """
    tensors = read_tensors(path)
    with torch.device("meta"):  # random weights would take longer than all the rest
        model = ReleasedSegmentation(read_config(tensors))
    model.to_empty(device="cpu")
    load_released_tensors(model, tensors)
    return model.eval()


def _stage_and_unit(match: re.Match[str]) -> str:
    stage, unit = (int(number) - 1 for number in match.groups())
    return f"hybrid_model.stages.{stage}.blocks.{unit}."


def _places(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Tensors by our names, our names to those in the file, and reasons for what is left out."""
    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, tensor in tensors.items():
        why = next((why for pattern, why in LEFT_OUT.items() if re.fullmatch(pattern, name)), None)
        if why is not None:
            left_out[name] = why
            continue
        place = own_name(name)
        if place in ours:
            place = f"{place}, a second time"  # no name in the model, so it is told as unknown
        ours[place], names[place] = tensor, name
    return ours, names, left_out
