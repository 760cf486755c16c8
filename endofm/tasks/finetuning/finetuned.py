"""Fine-tuned models: a task around any weights, and the folders that such models are kept in.

A folder holds `config.json` (format number, task, classes, what is shown, the encoder's whole
architecture, where it all comes from), `model.safetensors` with every tensor of network and head,
and `reference.safetensors`, a small input with the output it must give.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from endofm.data.labelled.samples import DETECTION, ClipSpec, LabelledConfig
from endofm.data.manifests.labels import Truth
from endofm.errors import ConfigError, EndofmError, WeightsError
from endofm.hub.folder import ARCHITECTURES, FORMAT, REFERENCE_TOLERANCE, refuse_taken, write_folder
from endofm.models.registry import Backbone
from endofm.tasks.classification.task import build_classification
from endofm.tasks.detection.task import make_detection
from endofm.tasks.finetuning.contract import Task, TaskConfig
from endofm.tasks.finetuning.trainable import Encoder, TuningConfig, add_adapters
from endofm.tasks.segmentation.task import make_segmentation

KEPT = ("label", "stride", "every_frames", "test_views")
"""What of the data's configuration belongs to a model: it says what it is shown."""


@dataclass(frozen=True)
class Adapters:
    """Which adapters an encoder has."""

    method: str = ""
    """`st_adapter`, `lora`, or none."""
    width: int = 0


@dataclass(frozen=True)
class Finetuned:
    """A model as it lies in a folder."""

    task: Task
    config: TaskConfig
    adapters: Adapters
    provenance: Mapping[str, Any]


def build_task(
    model: Any,
    clip_spec: ClipSpec,
    config: TaskConfig,
    truths: Sequence[Truth] = (),
    reset_head: bool = False,
) -> Task:
    """The task that a configuration asks for around a model; its head starts at random.

    Raises `ConfigError` where the two don't go together.
    """
    if clip_spec.kind == "segmentation":
        return make_segmentation(model, clip_spec, config, reset_head)
    if clip_spec.kind in DETECTION:
        return make_detection(model, clip_spec)
    if not isinstance(model, Backbone):
        raise ConfigError(
            f"A {type(model).__name__} can't be trained for {clip_spec.kind}; give the "
            "weights of a plain backbone."
        )
    return build_classification(model, clip_spec, config, truths)


def save_finetuned(
    folder: Path,
    task: Task,
    config: TaskConfig,
    adapters: Adapters,
    provenance: Mapping[str, Any],
) -> None:
    """Write a fine-tuned model; it is there whole or not at all, and replaces an older one.

    Raises `WeightsError` where it can't be written.
    """
    folder = Path(folder)
    refuse_taken(folder)
    clip_spec, encoder = task.clip_spec, task.encoder
    settings = dataclasses.asdict(encoder.config)
    settings.pop("gradient_checkpointing", None)  # a matter of training, not of the model
    told = {
        "format": FORMAT,
        "architecture": "finetuned",
        "task": dataclasses.asdict(config),
        "classes": list(clip_spec.classes),
        "frames": clip_spec.frames,
        "pixels": clip_spec.pixels,
        "shown": {name: getattr(clip_spec.data, name) for name in KEPT},
        "encoder": {
            "architecture": _architecture(encoder),
            "settings": settings,
            "input": dataclasses.asdict(encoder.input_spec),
            "adapters": dataclasses.asdict(adapters),
        },
        "provenance": dict(provenance),
    }
    network = task.network.float().cpu().eval()
    tensors = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    frames = _reference_frames(task)
    reference = {"frames": frames, "output": _output(task, frames)}
    write_folder(folder, told, tensors, reference, _card(told))


def is_finetuned(source: str | Path) -> bool:
    """Whether it is a folder of this kind."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return False
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("architecture") == "finetuned"


def load_finetuned(folder: str | Path) -> Finetuned:
    """The model in a folder, in evaluation mode.

    Raises `WeightsError` where it is none, is not whole, or does not give its reference output.
    """
    folder = Path(folder)
    if not is_finetuned(folder):
        raise WeightsError(
            f"{folder} is no fine-tuned model; `python -m finetune` leaves one as its `model` "
            "folder."
        )
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if told.get("format") not in range(1, FORMAT + 1):
        raise WeightsError(
            f"{folder} has format {told.get('format')}, and this endofm reads up to {FORMAT}; "
            "install a newer one."
        )
    try:
        config, adapters = (
            TaskConfig(**_tuples(told["task"])),
            Adapters(**told["encoder"]["adapters"]),
        )
        encoder = _encoder(told["encoder"], adapters)
        classes = tuple(told["classes"])
        data = LabelledConfig(classes=classes, **_tuples(told["shown"]))
        legacy = config.protocol == "legacy_polypdiag"
        clip_spec = ClipSpec(config.kind, classes, data, told["frames"], told["pixels"], legacy)
        unweighed = dataclasses.replace(config, balance="none")
        task = build_task(encoder, clip_spec, unweighed)
        task.network.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{folder / 'model.safetensors'} can't be read ({error}); fetch the folder again."
        ) from error
    except (EndofmError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"{folder / 'config.json'} and its weights describe no model we know: {reason}"
        ) from error
    task.network.eval()
    difference = check_finetuned(folder, task)
    if not difference < REFERENCE_TOLERANCE:
        raise WeightsError(
            f"{folder} does not give its reference output here (relative difference "
            f"{difference:.1e}); its files don't belong together: fetch the folder again."
        )
    return Finetuned(task, config, adapters, told["provenance"])


def check_finetuned(folder: Path, task: Task) -> float:
    """Relative difference between the model's output on the folder's reference and its own."""
    file = Path(folder) / "reference.safetensors"
    try:
        reference = load_file(file)
        frames, expected = reference["frames"], reference["output"]
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsError(f"{file} can't be read ({error}); fetch the folder again.") from error
    output = _output(task, frames)
    if output.shape != expected.shape:
        return float("inf")
    return float((output - expected).norm() / expected.norm().clamp_min(1e-12))


def _encoder(told: Mapping[str, Any], adapters: Adapters) -> Encoder:
    architecture = ARCHITECTURES[told["architecture"]]
    encoder: Any = architecture.build(**_tuples(told["settings"]))
    encoder.input_spec = architecture.input_spec(**_tuples(told["input"]))
    if adapters.method:
        method: Any = adapters.method
        add_adapters(encoder, TuningConfig(method=method, size=adapters.width))
    found: Encoder = encoder
    return found


def _architecture(encoder: Encoder) -> str:
    return next(name for name, a in ARCHITECTURES.items() if isinstance(encoder, a.network))


@torch.no_grad()
def _output(task: Task, frames: Tensor) -> Tensor:
    return task.output(task.encoder.input_spec.normalize(frames)).float().contiguous()


def _reference_frames(task: Task) -> Tensor:
    """A small input by a fixed rule, as model folders of backbones have it."""
    side = 4 * task.encoder.patch_pixels
    shape = (1, min(task.clip_spec.frames, 4), side, side, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _card(told: Mapping[str, Any]) -> str:
    task, shown = told["task"], told["shown"]
    lines = [
        f"# A fine-tuned model: {task['kind']}",
        "",
        f"Classes: {', '.join(told['classes'])}.",
        "",
        f"It is shown clips of {told['frames']} frames of {told['pixels']} x {told['pixels']} "
        f"pixels ({', '.join(f'{name} {value}' for name, value in shown.items())}).",
        "",
        "`python -m finetune.evaluate THIS_FOLDER --data.manifests clips.csv` evaluates it;",
        "`endofm.tasks.finetuning.finetuned.load_finetuned` loads it.",
        "`endofm.load` is for backbones.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in told["provenance"].items()),
        "",
    ]
    return "\n".join(lines)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
