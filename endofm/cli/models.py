"""`endofm check` and `endofm models`: what a model folder holds, and what can be trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.talk import say
from endofm.models.registry import create_model, list_models
from endofm.models.timesformer import TimeSformer


@dataclass(frozen=True)
class Check:
    """Load a model folder and see whether it gives its reference output on this machine."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A model folder, as a run exports it."""

    def run(self) -> None:
        """Say what the folder holds; raises `WeightsError` where it is not what it should be."""
        model = hub.load(self.folder)
        difference = hub.check(self.folder, model)
        config, spec = model.config, model.input_spec
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        kind = (
            f"TimeSformer, {config.attention.replace('_', ' ')} attention"
            if isinstance(model, TimeSformer)
            else f"Endo-FM's segmentation network, {config.num_classes} classes"
        )
        say(
            f"architecture  {kind}, width {config.width}, depth {config.depth}, "
            f"{config.num_heads} heads, patches of {model.patch_pixels} px, "
            f"{millions:.1f} M parameters"
        )
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


def _describe(name: str) -> str:
    with torch.device("meta"):  # shapes without memory
        model = create_model(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{millions:.0f} M parameters"
