"""Model folders: `config.json`, `model.safetensors`, `reference.safetensors` and a model card.

A folder is for ever: it has a format number, the whole architecture, the input statistics, where
the weights come from, and a small input with the output it must give, checked at every load.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from endofm.errors import ConfigError, WeightsError
from endofm.models.input import InputSpec
from endofm.models.registry import build_timesformer
from endofm.models.timesformer import TimeSformer
from endofm.models.weights import load_backbone_weights, read_tensors

FORMAT = 1
REFERENCE_TOLERANCE = 1e-3
"""Largest relative difference between a model's reference output here and where it was saved."""
PLACE = "this/folder"
"""What a card says to load; pushed to the Hub, the card says the model's name there."""


def save(folder: Path, model: TimeSformer, spec: InputSpec, provenance: Mapping[str, Any]) -> None:
    """Write a model folder; it is there whole or not at all, and replaces an older one.

    Raises `WeightsError` where the place is taken by anything else.
    """
    folder = Path(folder)
    refuse_taken(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model = model.float().cpu().eval()
    settings = dataclasses.asdict(model.config)
    settings["gradient_checkpointing"] = False  # a matter of training, not of the model
    config = {
        "format": FORMAT,
        "architecture": "timesformer",
        "settings": settings,
        "input": dataclasses.asdict(spec),
        "provenance": dict(provenance),
    }
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    save_file(_reference(model, spec), part / "reference.safetensors")
    (part / "README.md").write_text(_card(config, model), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def refuse_taken(folder: Path) -> None:
    """Raises `WeightsError` unless the place is free, an empty folder, or an older model folder."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / "reference.safetensors").is_file():
        raise WeightsError(f"{folder} is there and is no model folder; choose another place.")


def load(folder: str | Path) -> TimeSformer:
    """The backbone in a model folder, in evaluation mode, with its `input_spec`.

    `model(clip)` gives `[B, D]` for a clip `[B, 3, T, H, W]`, `model.tokens(clip)` all tokens
    `[B, 1 + N, D]`; `model.input_spec.normalize(frames)` makes a clip of uint8 frames. Raises
    `WeightsError` if a file is missing or broken, or the reference output does not come out.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        model = build_timesformer(**config["settings"])
        spec = InputSpec(**{key: _tuple(value) for key, value in config["input"].items()})
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
def check(folder: Path, model: TimeSformer) -> float:
    """Relative difference between a model's output on the folder's reference input and its own."""
    file = Path(folder) / "reference.safetensors"
    try:
        reference = load_file(file)
        frames, expected = reference["frames"], reference["tokens"]
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsError(f"{file} can't be read ({error}); fetch the folder again.") from error
    tokens = model.tokens(model.input_spec.normalize(frames))
    if tokens.shape != expected.shape:
        return float("inf")
    return float((tokens - expected).norm() / expected.norm())


@torch.no_grad()
def _reference(model: TimeSformer, spec: InputSpec) -> dict[str, Tensor]:
    """A small input by a fixed rule, and its tokens."""
    side = 4 * model.config.patch_pixels
    shape = (1, min(spec.num_frames, 4), side, side, 3)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return {"frames": frames, "tokens": model.tokens(spec.normalize(frames)).contiguous()}


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
        number, architecture = config["format"], config["architecture"]
        config["settings"], config["input"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is not a model's configuration ({error}).") from error
    if number not in range(1, FORMAT + 1):
        raise WeightsError(
            f"{file} has format {number}, and this endofm reads up to {FORMAT}; install a newer "
            f"one."
        )
    if architecture != "timesformer":
        raise WeightsError(
            f"{file} names the architecture '{architecture}', which is unknown here."
        )
    return dict(config)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _card(config: dict[str, Any], model: TimeSformer) -> str:
    settings, spec, provenance = config["settings"], config["input"], config["provenance"]
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    origin = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in provenance.items())
    story, kind = "with weights from the source at the end of this card", ""
    if "trained by" in provenance:  # by us; of weights from elsewhere nothing is claimed
        story, kind = (
            'the average ("teacher") of a self-supervised pretraining run',
            "self-supervised, ",
        )
    return f"""---
library_name: endofm
{_license(provenance)}pipeline_tag: feature-extraction
tags: [video, endoscopy, {kind}timesformer]
---

# Video transformer for endoscopy

A TimeSformer ({settings["attention"].replace("_", " ")} attention, width {settings["width"]},
depth {settings["depth"]}, patch {settings["patch_pixels"]} px, {parameters:.1f} M parameters),
{story}.

```python
import endofm

model = endofm.load("{PLACE}")
clip = model.input_spec.normalize(frames)   # uint8 [T, H, W, 3] RGB -> [1, 3, T, H, W]
features = model(clip)                      # [1, {settings["width"]}]
tokens = model.tokens(clip)                 # [1, 1 + N, {settings["width"]}], class token first
```

`endofm.load` takes a folder or a name on the Hugging Face Hub, there also with `revision=`.

Made for {spec["num_frames"]} frames of {spec["pixels"]} x {spec["pixels"]} pixels; mean
{spec["mean"]}, standard deviation {spec["std"]}.

| where from | |
| --- | --- |
{origin}

Not a medical device: for research, not for decisions about patients.
"""


def _license(provenance: Mapping[str, Any]) -> str:
    """The line of the front matter; the Hub knows licenses by their lower-case SPDX names."""
    name = str(provenance.get("license", "")).strip()
    if not name:
        return ""
    if re.fullmatch(
        r"apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-4\.0", name.lower()
    ):
        return f"license: {name.lower()}\n"
    return f"license: other\nlicense_name: {json.dumps(name)}\n"


def _cell(value: Any) -> str:
    """Any value on one line of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
