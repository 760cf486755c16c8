"""A backbone from its configuration, with the weights it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from endofm.errors import ConfigError, WeightsError
from endofm.models.loading.image_weights import image_of_file, load_image_weights
from endofm.models.loading.layouts import recognize
from endofm.models.loading.weights import load_backbone_weights, read_checkpoint
from endofm.models.registry import create_model, list_models
from endofm.models.timesformer import TimeSformer


@dataclass(frozen=True)
class ModelConfig:
    """Which backbone, and what it starts from."""

    name: str = "timesformer_base"
    """A name that endofm.list_models() gives."""
    attention: Literal["divided_space_time", "joint_space_time", "space_only"] = (
        "divided_space_time"
    )
    """Time then space, all tokens at once, or every frame alone."""
    patch_pixels: int = 16
    """Side of a square patch."""
    drop_path: float = 0.1
    """Chance of dropping a branch of the last block in training; rises linearly from 0."""
    position_resize: Literal["nearest", "smooth"] = "nearest"
    """Resize embeddings as published weights need it (nearest), or bicubic and linear (smooth)."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, slower steps."""
    init_from: str = ""
    """Weights to start from: a model folder, a file of a video or image transformer, or
    `timm:NAME`.
    """


def build_backbone(config: ModelConfig, image_pixels: int, num_frames: int) -> TimeSformer:
    """The backbone with random weights.

    Its position embedding is made for `image_pixels`, its time embedding for `num_frames`; clips of
    other sizes resize them.
    """
    if config.name in list_models() and not config.name.startswith("timesformer_"):
        raise ConfigError(
            f"model.name {config.name} is no video transformer; pretrain one of those."
        )
    model = create_model(
        config.name,
        attention=config.attention,
        patch_pixels=config.patch_pixels,
        image_pixels=image_pixels,
        num_frames=num_frames,
        drop_path=config.drop_path,
        position_resize=config.position_resize,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    assert isinstance(model, TimeSformer)
    return model


def weights_file(source: str) -> Path:
    """The file that `model.init_from` names; in a model folder its weights."""
    path = Path(source)
    return path / "model.safetensors" if path.is_dir() else path


def initialize(backbone: TimeSformer, head: nn.Module | None, source: str) -> str:
    """Load `source` into the backbone, and its projection head if it has one and `head` is to start
    from it; what was done, in words.

    Raises `WeightsError` if the weights don't fit: nothing is loaded in part.
    """
    if not source:
        return "Weights start at random."
    if source.startswith("timm:"):
        report = load_image_weights(backbone, source.removeprefix("timm:"))
        return f"Spatial weights start from {source}; {report}."
    path = weights_file(source)
    found = recognize(read_checkpoint(path, which="student"))
    if "time_embed" not in found.tensors:
        report = load_image_weights(backbone, image_of_file(found, str(path)))
        return f"Spatial weights start from the image weights {path.name}; {report}."
    load_backbone_weights(backbone, found.tensors)
    if head is None:
        return f"The backbone starts from {path.name}."
    own = head.state_dict()
    given = {
        name.removeprefix("head."): tensor
        for name, tensor in found.tensors.items()
        if name.startswith(("head.mlp.", "head.last_layer."))
    }
    if not given:
        return f"The backbone starts from {path.name}, which has no projection head."
    if {n: t.shape for n, t in given.items()} != {n: t.shape for n, t in own.items()}:
        raise WeightsError(
            f"{path} has a projection head of other size ({len(given)} tensors, prototypes "
            f"{list(given.get('last_layer.weight_v', next(iter(given.values()))).shape)}); set "
            f"objective.prototypes to its own, or save the backbone without `head.*`."
        )
    head.load_state_dict(given)
    return f"Backbone and projection head start from {path.name}."
