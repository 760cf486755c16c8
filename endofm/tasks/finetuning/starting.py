"""The network that a fine-tuning run starts from, whatever its weights lie in."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endofm.data.labelled.samples import ClipSpec
from endofm.data.manifests.labels import Truth
from endofm.errors import ConfigError
from endofm.hub.loading import TIMM, find
from endofm.models.adapters import merge_lora
from endofm.models.registry import Backbone, create_model
from endofm.models.stfm import STFM, load_stem
from endofm.models.vipttnet import ViPTTNet, load_cnn
from endofm.tasks.embedding.videos import fingerprint
from endofm.tasks.finetuning.contract import Task, TaskConfig
from endofm.tasks.finetuning.finetuned import (
    Adapters,
    Finetuned,
    build_task,
    is_finetuned,
    load_finetuned,
)
from endofm.tasks.finetuning.trainable import (
    Encoder,
    TuningConfig,
    prepare_encoder,
    set_training_options,
)

SCRATCH = "none"
ON_FRAME_CNNS = ("stfm", "vipttnet")
"""How the names of networks begin that can start from the weights of timm's CNNs."""


@dataclass(frozen=True)
class ModelOptions:
    """The network that `--weights none` starts at random, and how any network is trained."""

    name: str = "timesformer_small"
    """With `--weights none`: a name that endofm.list_models() gives. With `timm:NAME` also that of
    a network around a CNN of frames (stfm_..., vipttnet), which then starts from timm's weights.
    """
    patch_pixels: int | None = None
    """With `--weights none`: side of a transformer's square patch; by default 16."""
    drop_path: float | None = None
    """Chance of dropping a branch of a transformer's last block in training; rises linearly from 0;
    by default 0.1.
    """
    gradient_checkpointing: bool = False
    """Recompute a transformer's blocks in the backward pass: less memory, slower steps."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise ConfigError(f"model.drop_path is {self.drop_path}; give 0 to below 1.")


@dataclass(frozen=True)
class Start:
    """Weights, before a task is made of them."""

    encoder: Encoder
    adapters: Adapters
    provenance: dict[str, str]
    finetuned: Finetuned | None = None
    """Where the weights have a head of their own."""

    @property
    def frames(self) -> int:
        """Frames of a clip that the weights are made for."""
        return self.finetuned.task.clip_spec.frames if self.finetuned else self._spec.num_frames

    @property
    def pixels(self) -> int:
        """Height and width that the weights are made for."""
        return self.finetuned.task.clip_spec.pixels if self.finetuned else self._spec.pixels

    @property
    def told(self) -> str:
        """Where it is from, and what was left out, in a line."""
        return "; ".join(f"{name}: {value}" for name, value in self.provenance.items())

    @property
    def _spec(self) -> Any:
        return self.encoder.input_spec


def find_start(
    weights: str, options: ModelOptions, frames: int | None = None, pixels: int | None = None
) -> Start:
    """What `--weights` names: a fine-tuned folder, anything that `endofm.load` takes, or `none`.

    A network that starts at random is made for clips of `frames` and `pixels`, by default its own
    (of a transformer 8 and 224); of one around a CNN of frames that CNN may start from timm's
    weights. Raises `ConfigError` or `WeightsError`.
    """
    if not weights:
        raise ConfigError(
            "There are no weights to start from; give --weights a model folder, a weight file, "
            "timm:NAME or owner/name on the Hub, or `none` for random ones."
        )
    if weights == SCRATCH:
        encoder: Any = _random(options, frames, pixels)
        provenance = {"source": f"random weights of {options.name}"}
        finetuned, adapters = None, Adapters()
    elif weights.startswith(TIMM) and options.name.startswith(ON_FRAME_CNNS):
        encoder = _random(options, frames, pixels)
        _load_frame_cnn(encoder, weights.removeprefix(TIMM))
        provenance = {"source": weights, "kind": f"the CNN of frames of a random {options.name}"}
        finetuned, adapters = None, Adapters()
    elif is_finetuned(weights):
        finetuned = load_finetuned(weights)
        encoder, adapters = finetuned.task.encoder, finetuned.adapters
        if adapters.method == "lora":
            merge_lora(encoder)
            adapters = Adapters()
        encoder.requires_grad_(True)
        provenance = {"source": weights, "kind": "a fine-tuned model of endofm"}
    else:
        found = find(weights)
        encoder, provenance = found.model, dict(found.provenance)
        finetuned, adapters = None, Adapters()
    model_file = Path(weights) / "model.safetensors"
    if model_file.is_file():
        with model_file.open("rb") as file:
            provenance["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    if weights != SCRATCH and "sha256" not in provenance and isinstance(encoder, Backbone):
        provenance["fingerprint"] = fingerprint(encoder)
    return Start(encoder, adapters, provenance, finetuned)


def _random(options: ModelOptions, frames: int | None, pixels: int | None) -> Backbone:
    asked = {
        "patch_pixels": options.patch_pixels,
        "num_frames": frames,
        "image_pixels": pixels,
    }
    overrides = {name: value for name, value in asked.items() if value is not None}
    return create_model(options.name, **overrides)


def _load_frame_cnn(encoder: Backbone, name: str) -> None:
    if isinstance(encoder, STFM):
        load_stem(encoder, name)
    else:
        assert isinstance(encoder, ViPTTNet)
        load_cnn(encoder, name)


def start_task(
    start: Start,
    clip_spec: ClipSpec,
    config: TaskConfig,
    options: ModelOptions,
    tuning: TuningConfig,
    truths: tuple[Truth, ...] = (),
    reset_head: bool = False,
) -> tuple[Task, Adapters]:
    """The task on its starting weights, ready to be tuned in the given way; and its adapters.

    A head in the weights is kept if it is for this task. Raises `ConfigError` for a head of another
    task or of other classes, unless `reset_head` starts it anew.
    """
    of_weights = start.finetuned
    if of_weights is not None and not reset_head:
        _check_head(of_weights, clip_spec, config)
    task = build_task(start.encoder, clip_spec, config, truths, reset_head)
    if of_weights is not None and not reset_head:
        task.network.load_state_dict(of_weights.task.network.state_dict())
    set_training_options(task.encoder, options.drop_path, options.gradient_checkpointing)
    prepare_encoder(task.encoder, tuning)
    adapters = start.adapters
    if tuning.method in ("st_adapter", "lora"):
        adapters = Adapters(tuning.method, tuning.size)
    return task, adapters


def _check_head(found: Finetuned, clip_spec: ClipSpec, config: TaskConfig) -> None:
    theirs, ours = found.task.classes, clip_spec.classes
    if (found.config.kind, found.config.head, theirs) != (config.kind, config.head, ours):
        raise ConfigError(
            f"The weights have a {found.config.head} head for {found.config.kind} of "
            f"{len(theirs)} classes ({', '.join(theirs)}), but this run has a {config.head} head "
            f"for {config.kind} of {len(ours)} ({', '.join(ours)}); --reset-head starts it anew on "
            "their backbone."
        )
