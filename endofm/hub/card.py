"""The model card of a model folder, with the front matter that the Hugging Face Hub reads."""

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

PLACE = "this/folder"
"""What a card says to load; pushed to the Hub, the card says the model's name there."""


def write_card(config: dict[str, Any], model: nn.Module) -> str:
    """The card's text, from a folder's configuration."""
    architecture, provenance, spec = config["architecture"], config["provenance"], config["input"]
    story, kind = "with weights from the source at the end of this card", ""
    if "trained by" in provenance:  # by us; of weights from elsewhere nothing is claimed
        story, kind = (
            'the average ("teacher") of a self-supervised pretraining run',
            "self-supervised, ",
        )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    writers = {
        "timesformer": _backbone,
        "rpa3d": _cnn,
        "vipttnet": _recurrent,
        "stfm": _stfm,
        "released_segmentation": _segmentation,
    }
    tag = "timesformer" if architecture == "released_segmentation" else architecture
    task, title, text, example = writers[architecture](config["settings"], millions, story)
    origin = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in provenance.items())
    return f"""---
library_name: endofm
{_license(provenance)}pipeline_tag: {task}
tags: [video, endoscopy, {kind}{tag}]
---

# {title}

{text}

```python
import endofm

model = endofm.load("{PLACE}")
clip = model.input_spec.normalize(frames)   # uint8 [T, H, W, 3] RGB -> [1, 3, T, H, W]
{example}
```

`endofm.load` takes a folder or a name on the Hugging Face Hub, there also with `revision=`.

Made for {spec["num_frames"]} frames of {spec["pixels"]} x {spec["pixels"]} pixels; mean
{spec["mean"]}, standard deviation {spec["std"]}.

| where from | |
| --- | --- |
{origin}

Not a medical device: for research, not for decisions about patients.
"""


def _backbone(settings: dict[str, Any], millions: float, story: str) -> tuple[str, str, str, str]:
    attention, width = settings["attention"].replace("_", " "), settings["width"]
    text = f"""A TimeSformer ({attention} attention, width {width},
depth {settings["depth"]}, patch {settings["patch_pixels"]} px, {millions:.1f} M parameters),
{story}."""
    example = f"""features = model(clip)                      # [1, {width}]
tokens = model.tokens(clip)                 # [1, 1 + N, {width}], class token first"""
    return "feature-extraction", "Video transformer for endoscopy", text, example


def _cnn(settings: dict[str, Any], millions: float, story: str) -> tuple[str, str, str, str]:
    widths = settings["widths"]
    how = "over frames and pixels at once" if settings["convolution"] == "3d" else "(2+1)D"
    attention = "with" if settings["has_attention"] else "without"
    text = f"""An RPA 3D CNN ({how} convolutions, stages of {", ".join(map(str, widths))} filters,
{attention} P-scSE3D, {millions:.1f} M parameters),
{story}."""
    example = f"""features = model(clip)                      # [1, {widths[-1]}]
tokens = model.tokens(clip)                 # [1, 1 + N, {widths[-1]}], features first"""
    return "feature-extraction", "3-D CNN for endoscopy video", text, example


def _recurrent(settings: dict[str, Any], millions: float, story: str) -> tuple[str, str, str, str]:
    width = settings["width"]
    text = f"""A ViPTT-Net (timm's {settings["cnn"]} on every frame, an LSTM of
{settings["recurrent_width"]} units over them, {millions:.1f} M parameters),
{story}.
It sees grey frames, the mean of the three channels: slices of a CT volume too."""
    example = f"""features = model(clip)                      # [1, {width}]
tokens = model.tokens(clip)                 # [1, 1 + T, {width}], features first"""
    return "feature-extraction", "Frame CNN and LSTM for video and volumes", text, example


def _stfm(settings: dict[str, Any], millions: float, story: str) -> tuple[str, str, str, str]:
    width = settings["width"]
    text = f"""An STFM (stem {settings["stem"]}, a stream of space and one of time, {millions:.1f} M
parameters),
{story}."""
    example = f"""features = model(clip)                      # [1, {width}]
tokens = model.tokens(clip)                 # [1, 3, {width}]: fused, spatial, temporal"""
    return "feature-extraction", "CNN of two streams for endoscopy video", text, example


def _segmentation(
    settings: dict[str, Any], millions: float, story: str
) -> tuple[str, str, str, str]:
    width, classes = settings["width"], settings["num_classes"]
    text = f"""Endo-FM's segmentation network (ResNet stem, {settings["depth"]} divided space-time
blocks of width {width}, U-shaped decoder, {classes} classes, {millions:.1f} M parameters),
{story}.
Each frame is scaled to 0 at its darkest value and 1 at its brightest before mean and deviation, and
channels go in as blue, green, red: `normalize` takes RGB and does both."""
    example = f"scores = model(clip)    # [1, T, {classes}, H, W], before the softmax"
    return "image-segmentation", "Segmentation of endoscopy video", text, example


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
