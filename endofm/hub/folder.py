"""Model folders: `config.json`, `model.safetensors`, `reference.safetensors` and a model card.

A folder is for ever: it has a format number, the whole architecture, the input statistics, where
the weights come from, and a small input with the output it must give, checked at every load.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from endofm.errors import ConfigError, WeightsError
from endofm.files import new_folder
from endofm.hub.card import write_card
from endofm.models.adapters import has_adapters
from endofm.models.input import InputSpec
from endofm.models.loading.weights import load_backbone_weights, read_tensors
from endofm.models.registry import build_rpa3d, build_stfm, build_timesformer, build_vipttnet
from endofm.models.released_segmentation import (
    ReleasedInput,
    ReleasedSegmentation,
    ReleasedSegmentationConfig,
    build_released_segmentation,
)
from endofm.models.rpa3d import RPA3D
from endofm.models.stfm import STFM
from endofm.models.timesformer import TimeSformer
from endofm.models.vipttnet import ViPTTNet

FORMAT = 1
REFERENCE_TOLERANCE = 1e-3
"""Largest relative difference between a model's reference output here and where it was saved."""


@dataclass(frozen=True)
class Architecture:
    """A kind of model that folders hold."""

    network: type[nn.Module]
    build: Callable[..., nn.Module]
    """From the settings."""
    input_spec: type[InputSpec]
    output: str
    """What the reference holds of it."""

    def compute(self, model: Any, frames: Tensor, spec: InputSpec) -> Tensor:
        """The reference output of uint8 frames [1, T, H, W, 3]."""
        clip = spec.normalize(frames)
        result: Tensor = model.tokens(clip) if self.output == "tokens" else model(clip)
        return result.contiguous()


ARCHITECTURES = {
    "timesformer": Architecture(TimeSformer, build_timesformer, InputSpec, "tokens"),
    "rpa3d": Architecture(RPA3D, build_rpa3d, InputSpec, "tokens"),
    "stfm": Architecture(STFM, build_stfm, InputSpec, "tokens"),
    "vipttnet": Architecture(ViPTTNet, build_vipttnet, InputSpec, "tokens"),
    "released_segmentation": Architecture(
        ReleasedSegmentation,
        lambda **settings: build_released_segmentation(ReleasedSegmentationConfig(**settings)),
        ReleasedInput,
        "logits",
    ),
}


def save(folder: Path, model: Any, spec: InputSpec, provenance: Mapping[str, Any]) -> None:
    """Write a model folder of a backbone or a `ReleasedSegmentation`.

    It is there whole or not at all, and replaces an older one.

    Raises `WeightsError` where the place is taken by anything else or can't be written,
    `ConfigError` for a backbone with adapters.
    """
    folder = Path(folder)
    if has_adapters(model):
        raise ConfigError(
            "The backbone has adapters, and a model folder holds none; merge LoRA into it "
            "(merge_lora), or save the whole fine-tuned model."
        )
    refuse_taken(folder)
    model = model.float().cpu().eval()
    settings = dataclasses.asdict(model.config)
    if "gradient_checkpointing" in settings:  # a matter of training, not of the model
        settings["gradient_checkpointing"] = False
    architecture = next(n for n, a in ARCHITECTURES.items() if isinstance(model, a.network))
    config = {
        "format": FORMAT,
        "architecture": architecture,
        "settings": settings,
        "input": dataclasses.asdict(spec),
        "provenance": dict(provenance),
    }
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    reference = _reference(ARCHITECTURES[architecture], model, spec)
    write_folder(folder, config, tensors, reference, write_card(config, model))


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    reference: dict[str, Tensor],
    card: str,
) -> None:
    """The four files of a model folder, whole or not at all, in the place of an older one.

    Raises `OutputError` where they can't be written; the older folder is untouched then.
    """
    with new_folder(folder) as part:
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        save_file(reference, part / "reference.safetensors")
        (part / "README.md").write_text(card, encoding="utf-8")


def refuse_taken(folder: Path) -> None:
    """Raises `WeightsError` unless the place is free, an empty folder, or an older model folder."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / "reference.safetensors").is_file():
        raise WeightsError(f"{folder} is there and is no model folder; choose another place.")


def load(folder: str | Path) -> Any:
    """The model in a model folder, in evaluation mode, with its `input_spec`.

    A `ReleasedSegmentation` where the folder holds one, else a backbone: `model(clip)` gives
    `[B, D]` for a clip `[B, 3, T, H, W]`, `model.tokens(clip)` all tokens `[B, 1 + N, D]`;
    `model.input_spec.normalize(frames)` makes a clip of uint8 frames. Raises `WeightsError` if a
    file is missing or broken, or the reference output does not come out.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        architecture = ARCHITECTURES[config["architecture"]]
        model: Any = architecture.build(**_tuples(config["settings"]))
        spec = architecture.input_spec(**_tuples(config["input"]))
    except (ConfigError, TypeError) as error:
        raise WeightsError(
            f"{folder / 'config.json'} describes no model we know: {error}"
        ) from error
    load_backbone_weights(model, read_tensors(folder / "model.safetensors"))
    model.input_spec = spec
    model.eval()
    difference = check(folder, model)
    if not difference < REFERENCE_TOLERANCE:
        raise WeightsError(
            f"{folder} does not give its reference output here (relative difference "
            f"{difference:.1e}); its files don't belong together: fetch the folder again."
        )
    return model


@torch.no_grad()
def check(folder: Path, model: Any) -> float:
    """Relative difference between a model's output on the folder's reference input and its own."""
    file = Path(folder) / "reference.safetensors"
    architecture = next(a for a in ARCHITECTURES.values() if isinstance(model, a.network))
    try:
        reference = load_file(file)
        frames, expected = reference["frames"], reference[architecture.output]
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsError(f"{file} can't be read ({error}); fetch the folder again.") from error
    output = architecture.compute(model, frames, model.input_spec)
    if output.shape != expected.shape:
        return float("inf")
    return float((output - expected).norm() / expected.norm())


@torch.no_grad()
def _reference(architecture: Architecture, model: Any, spec: InputSpec) -> dict[str, Tensor]:
    """A small input by a fixed rule, and what the model gives for it."""
    side = 4 * model.patch_pixels
    shape = (1, min(spec.num_frames, 4), side, side, 3)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return {"frames": frames, architecture.output: architecture.compute(model, frames, spec)}


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(
            f"{folder} is not a model folder (it has no config.json); a run exports one as its "
            "`model` folder."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if "format" not in config:
            raise WeightsError(
                f"{folder} is another library's model ({file.name} has no format number); give the "
                "weight file in it."
            )
        if config.get("architecture") == "finetuned":
            raise WeightsError(
                f"{folder} is a fine-tuned model (network and head), not a backbone; `python -m "
                "finetune.evaluate` evaluates it, "
                "endofm.tasks.finetuning.finetuned.load_finetuned loads it."
            )
        number, architecture = config["format"], config["architecture"]
        config["settings"], config["input"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is not a model's configuration ({error}).") from error
    if type(number) is not int or number not in range(1, FORMAT + 1):
        raise WeightsError(
            f"{file} has format {number!r}, and this endofm reads 1 to {FORMAT}; install a newer "
            "one if that is above, or fetch the folder again."
        )
    if architecture not in ARCHITECTURES:
        raise WeightsError(
            f"{file} names the architecture '{architecture}', which is unknown here."
        )
    return dict(config)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
