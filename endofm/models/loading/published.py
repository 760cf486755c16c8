"""Published weights of any known layout as a model: recognized, sized by their shapes, exact.

Every name in the file and every name of the model is in the report, for loading and for the doctor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from endofm.errors import WeightsError
from endofm.models.input import InputSpec
from endofm.models.loading.image_weights import (
    ImageWeights,
    download_image,
    fit_image_weights,
    image_of_file,
    is_vit,
    load_image_weights,
    refuse_other_parts,
    untrained_image,
)
from endofm.models.loading.layouts import IMAGENET, Kind, recognize
from endofm.models.loading.released_segmentation_weights import (
    MARK,
    account,
    load_released_segmentation,
)
from endofm.models.loading.sizes import LoadOptions, infer_config
from endofm.models.loading.weights import (
    Checkpoint,
    LoadReport,
    Which,
    compare,
    misfit,
    read_checkpoint,
)
from endofm.models.timesformer import TimeSformer, TimeSformerConfig

DEFAULT = LoadOptions()
SEGMENTATION = "Endo-FM's CVC segmentation model"


@dataclass(frozen=True)
class Plan:
    """What loading would do, before any of it is done."""

    name: str
    """The file, or timm's name."""
    kind: Kind
    config: TimeSformerConfig
    spec: InputSpec
    tensors: Mapping[str, Tensor]
    """By the model's names."""
    report: LoadReport
    image: ImageWeights | None = None
    """The image ViT that the video model starts from, where it is one."""


@dataclass(frozen=True)
class Published:
    """A model from published weights, in evaluation mode, and what became of every tensor."""

    model: nn.Module
    title: str
    """What the source is."""
    report: LoadReport
    network: str = ""
    """`student` or `teacher`, of a file that holds such."""


def load_published(
    path: str | Path, which: Which = "teacher", options: LoadOptions = DEFAULT
) -> Published:
    """The model in a weight file of any known layout, with its `input_spec`.

    Endo-FM's segmentation file gives the whole segmentation network, any other a `TimeSformer`; a
    classifier is left out. Raises `WeightsError` before a network is built where a tensor is
    missing, of another shape or unexplained, or where the file holds another network.
    """
    checkpoint = read_checkpoint(path, which)
    if MARK in checkpoint.tensors:
        model = load_released_segmentation(path)
        return Published(model, SEGMENTATION, account(model, checkpoint.tensors))
    network = next((entry for entry in checkpoint.wrapping if entry == which), "")
    return replace(_build(plan_file(checkpoint, options)), network=network)


def load_timm(name: str, options: LoadOptions = DEFAULT) -> Published:
    """A video model that starts from timm's image ViT of that name, which is downloaded.

    Raises `WeightsError`, before anything is downloaded, where it can't be one.
    """
    untrained = untrained_image(name)
    _plan_image(untrained, _kind_of_timm(untrained), options)
    image = download_image(name)
    return _build(_plan_image(image, _kind_of_timm(image), options))


def plan_file(checkpoint: Checkpoint, options: LoadOptions = DEFAULT) -> Plan:
    """What loading a file's network would do; raises `WeightsError` for an unknown network."""
    found, name = recognize(checkpoint), str(checkpoint.path)
    if found.kind.is_image:
        return _plan_image(image_of_file(found, name), found.kind, options)
    config = infer_config(found.tensors, name, options)
    report = compare(_shapes(config), found.tensors, found.names, found.left_out, found.started)
    return Plan(name, found.kind, config, _spec(config, found.kind, options), found.tensors, report)


def _plan_image(image: ImageWeights, kind: Kind, options: LoadOptions) -> Plan:
    refuse_other_parts(image)
    network = image.network
    if is_vit(network):  # it tells what tensors don't
        options = replace(
            options,
            num_heads=network.blocks[0].attn.num_heads,
            layer_norm_eps=getattr(network.norm, "eps", None),
        )
    config = infer_config(image.tensors, image.name, options, is_image=True)
    tensors, report = fit_image_weights(image, config, _shapes(config))
    return Plan(image.name, kind, config, _spec(config, kind, options), tensors, report, image)


def _build(plan: Plan) -> Published:
    if not plan.report.is_exact:
        raise WeightsError(
            f"{plan.name} is {plan.kind.title}, but not whole: {misfit(plan.report)}; get the file "
            "anew, or see `endofm doctor` for every tensor."
        )
    if plan.image is not None:
        model = TimeSformer(plan.config)
        load_image_weights(model, plan.image)
    else:
        with torch.device("meta"):  # random weights would take longer than all the rest
            model = TimeSformer(plan.config)
        model.to_empty(device="cpu")
        own = model.state_dict()
        model.load_state_dict({name: plan.tensors[name] for name in own}, strict=True)
    model.input_spec = plan.spec
    return Published(model.eval(), plan.kind.title, plan.report)


def _shapes(config: TimeSformerConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(TimeSformer(config).state_dict())


def _spec(config: TimeSformerConfig, kind: Kind, options: LoadOptions) -> InputSpec:
    mean, std = kind.statistics
    return InputSpec(
        mean=options.mean or mean,
        std=options.std or std,
        num_frames=config.num_frames,
        pixels=config.image_pixels,
    )


def _kind_of_timm(image: ImageWeights) -> Kind:
    known = getattr(image.network, "pretrained_cfg", None) or {}
    mean, std = known.get("mean", IMAGENET[0]), known.get("std", IMAGENET[1])
    title = f"timm's image ViT {image.name}"
    return Kind(title, (tuple(mean), tuple(std)), "timm, with the weights", is_image=True)
