"""`endofm check` and `endofm models`: what a model folder holds, and what can be trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.talk import say
from endofm.models.registry import Backbone, create_model, list_models
from endofm.models.released_segmentation import ReleasedSegmentation
from endofm.models.rpa3d import RPA3DConfig
from endofm.models.stfm import STFMConfig
from endofm.models.timesformer import TimeSformerConfig
from endofm.models.vipttnet import ViPTTNetConfig


@dataclass(frozen=True)
class Check:
    """Load a model folder and see whether it gives its reference output on this machine."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A model folder, as a run exports it."""

    def run(self) -> None:
        """Say what the folder holds; raises `WeightsError` where it is not what it should be."""
        model = hub.load(self.folder)
        difference = hub.check(self.folder, model)
        spec = model.input_spec
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        say(f"architecture  {_architecture(model)}, {millions:.1f} M parameters")
        say(
            f"input         {spec.num_frames} frames of {spec.pixels} x {spec.pixels} px, RGB, "
            f"mean {list(spec.mean)}, std {list(spec.std)}"
        )
        say(
            f"reference     relative difference {difference:.1e} "
            f"(at most {hub.REFERENCE_TOLERANCE:.0e}): as it was saved"
        )


@dataclass(frozen=True)
class Models:
    """List the backbones that can be trained."""

    def run(self) -> None:
        """One line a backbone."""
        for name in list_models():
            say(f"{name}  {_describe(name)}")


def _architecture(model: Backbone | ReleasedSegmentation) -> str:
    config = model.config
    if isinstance(config, RPA3DConfig):
        attention = "with" if config.has_attention else "without"
        stages = ", ".join(map(str, config.widths))
        return f"RPA 3D CNN {attention} attention, stages of {stages}, stride {config.stride} px"
    if isinstance(config, ViPTTNetConfig):
        return f"ViPTT-Net, {config.cnn} and an LSTM of {config.recurrent_width}"
    if isinstance(config, STFMConfig):
        return f"STFM on {config.stem}, width {config.width}, stride {model.patch_pixels} px"
    kind = (
        f"TimeSformer, {config.attention.replace('_', ' ')} attention"
        if isinstance(config, TimeSformerConfig)
        else f"Endo-FM's segmentation network, {config.num_classes} classes"
    )
    return (
        f"{kind}, width {config.width}, depth {config.depth}, {config.num_heads} heads, patches of "
        f"{model.patch_pixels} px"
    )


def _describe(name: str) -> str:
    with torch.device("meta"):  # shapes without memory
        model = create_model(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{millions:.0f} M parameters"
