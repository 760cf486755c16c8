"""A weight file's tensors by their plain names, and into a model with every name accounted for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from endofm.errors import WeightsError
from endofm.models.loading.weight_files import read_content

Which = Literal["teacher", "student"]

SHARED_PREFIXES = ("module.", "_orig_mod.", "model.")  # taken off where every name has them
LAYERS = ("model_state", "state_dict", "model")  # entries that hold the tensors, one in another
MAX_TENSORS = 100_000
LEFT_OUT = {  # the start of a name -> why a backbone has no use for it
    "head.mlp.": "projection head of the pretraining",
    "head.last_layer.": "projection head of the pretraining",
    "dino_head.": "projection head of the pretraining",
    "ibot_head.": "projection head of the pretraining",
    "head.": "classifier",
    "linear.": "classifier",
    "classifier.": "classifier",
    "fc_norm.": "norm before the classifier",
    "mask_token": "stands for hidden patches, in pretraining only",
    "decoder_": "decoder of masked pretraining",
}


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one network in a file, and what lies beside them."""

    path: Path
    tensors: dict[str, Tensor]
    """By plain names: without wrappings and the prefixes `module.`, `model.`, `backbone.`."""
    names: dict[str, str]
    """Plain name -> name in the file, with the entries it lies in."""
    wrapping: tuple[str, ...] = ()
    """Entries that were opened on the way, the outermost first."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Entries that were not opened, and why."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every name in a weight file, and of every name of the model."""

    loaded: Mapping[str, str]
    """Name in the model -> name in the file."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Name in the file -> why the model has no use for it."""
    started: Mapping[str, str] = field(default_factory=dict)
    """Name in the model that the file lacks, as expected -> how it starts."""
    missing: tuple[str, ...] = ()
    """Names of the model that the file should have."""
    unknown: tuple[str, ...] = ()
    """Names in the file that nothing explains."""
    misshapen: Mapping[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    """Name in the model -> its shape in the file, and the shape it should have."""

    @property
    def is_exact(self) -> bool:
        """Whether everything found its place."""
        return not (self.missing or self.unknown or self.misshapen)

    def __str__(self) -> str:
        left = f", left out {some(list(self.left_out))}" if self.left_out else ""
        return f"loaded {len(self.loaded)} tensors{left}"


def read_tensors(path: str | Path, which: Which = "teacher") -> dict[str, Tensor]:
    """The tensors of a weight file by their plain names; see `read_checkpoint`."""
    return read_checkpoint(path, which).tensors


def read_checkpoint(path: str | Path, which: Which = "teacher") -> Checkpoint:
    """The network in a `.safetensors` file or a PyTorch checkpoint, its wrappings taken off.

    `student` or `teacher` (chosen by `which`, where the file has them), `model_state`,
    `state_dict`, `model`, and prefixes. No pickled code runs. Raises `WeightsError`.
    """
    return unwrap(read_content(Path(path)), which, Path(path))


def unwrap(content: Any, which: Which, path: Path) -> Checkpoint:
    """The same for what a file holds, already read."""
    wrapping: list[str] = []
    left_out: dict[str, str] = {}
    if isinstance(content, Mapping) and ("student" in content or "teacher" in content):
        if which not in content:
            raise WeightsError(f"{path} has no {which}; it holds {some(list(content), 8)}.")
        left_out |= _beside(content, (which,))
        content = content[which]
        wrapping.append(which)
    parts = {"": content}
    if isinstance(content, Mapping) and "backbone_state_dict" in content:  # Endo-FM's PolypDiag
        names_of_parts = ("backbone_state_dict", "state_dict")
        parts = {part: content[part] for part in names_of_parts if part in content}
        left_out |= _beside(content, names_of_parts)
    plain: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    layouts: list[list[str]] = []
    for part, entries in parts.items():
        opened = [*wrapping, part] if part else [*wrapping]
        layouts.append(opened)
        tensors = _tensors_within(entries, path, opened, left_out)
        for name, (original, tensor) in _without_shared_prefix(tensors).items():
            short = name.removeprefix("backbone.")
            if short in plain:
                raise WeightsError(f"{path} has {short} twice; keep one of them.")
            plain[short] = tensor.detach()
            names[short] = ".".join([*opened, original])
    return Checkpoint(path, plain, names, tuple(layouts[0]), left_out)


def compare(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    started: Mapping[str, str] | None = None,
) -> LoadReport:
    """What loading `tensors` (by the model's names) into the model's `own` would do, name by name.

    Only the shapes of `own` are looked at. `names` are those in the file, `left_out` and `started`
    what is explained already.
    """
    names, started = names or {}, started or {}
    explained = {
        name: why for name in tensors if name not in own and (why := why_left_out(name)) is not None
    }
    in_both = [name for name in own if name in tensors]
    return LoadReport(
        loaded={name: names.get(name, name) for name in in_both if name not in started},
        left_out={
            **{names.get(name, name): why for name, why in explained.items()},
            **(left_out or {}),
        },
        started=started,
        missing=tuple(name for name in own if name not in tensors and name not in started),
        unknown=tuple(
            names.get(name, name) for name in tensors if name not in own and name not in explained
        ),
        misshapen={
            name: (list(tensors[name].shape), list(own[name].shape))
            for name in in_both
            if tensors[name].shape != own[name].shape
        },
    )


def why_left_out(name: str) -> str | None:
    """Why a backbone has no use for a tensor of that plain name; `None` if nothing is known."""
    return next((why for start, why in LEFT_OUT.items() if name.startswith(start)), None)


def load_backbone_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Puts tensors into a backbone, exactly: each name there, each shape right, none unexplained.

    Heads and the like (`LEFT_OUT`) are left out and listed. Raises `WeightsError` before anything
    is changed. Embeddings are never resized here: a model is made for its weights.
    """
    own = model.state_dict()
    report = compare(own, tensors)
    if report.missing or report.unknown:
        raise WeightsError(
            f"The weights don't fit the model: {misfit(report)}; "
            "make the model with the weights' own depth and attention, or start from image "
            "weights with load_image_weights."
        )
    for name in report.misshapen:
        raise WeightsError(_other_shape(name, tensors[name], own[name], model))
    model.load_state_dict({name: tensors[name] for name in own}, strict=True)
    return report


def misfit(report: LoadReport) -> str:
    """What is missing, without a place or of the wrong shape, for a message."""
    shapes = [
        f"{name} is {given} instead of {own}" for name, (given, own) in report.misshapen.items()
    ]
    parts = (
        f"{len(report.missing)} tensors are missing ({some(report.missing)})"
        if report.missing
        else "",
        f"{len(report.unknown)} have no place in it ({some(report.unknown)})"
        if report.unknown
        else "",
        some(shapes, 2),
    )
    return " and ".join(filter(None, parts))


def some(names: Sequence[object], most: int = 3) -> str:
    """A few names for a message."""
    return ", ".join(str(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def _other_shape(name: str, given: Tensor, own: Tensor, model: nn.Module) -> str:
    told = (
        f"{name} is {list(given.shape)} in the weights but {list(own.shape)} in the model; "
        "make the model with "
    )
    if name == "time_embed" and given.ndim == 3:
        return f"{told}num_frames={given.shape[1]}."
    if name == "pos_embed" and given.ndim == 3 and given.shape[2] == own.shape[2]:
        side = math.isqrt(given.shape[1] - 1)
        patch = getattr(getattr(model, "config", None), "patch_pixels", 16)
        if side * side == given.shape[1] - 1:
            return f"{told}image_pixels={side * patch}."
    return f"{told}the weights' own configuration."


def _beside(content: Mapping[Any, Any], taken: Sequence[str]) -> dict[str, str]:
    """Entries of a checkpoint beside those that are taken, and what they are."""
    told = {}
    for name, value in content.items():
        if name in ("student", "teacher") and name not in taken:
            told[name] = f"the other network of the run; which='{name}' takes it"
        elif name not in taken:
            tensors = isinstance(value, Mapping) and any(
                isinstance(part, Tensor) for part in value.values()
            )
            told[str(name)] = "tensors of something else" if tensors else "the training's own state"
    return told


def _tensors_within(
    content: Any, path: Path, opened: list[str], left_out: dict[str, str]
) -> dict[str, Tensor]:
    for _ in LAYERS:
        for layer in LAYERS:
            if isinstance(content, Mapping) and layer in content:
                left_out |= _beside(content, (layer,))
                content = content[layer]
                opened.append(layer)
    entries = dict(content) if isinstance(content, Mapping) else {}
    strange = [
        name
        for name, value in entries.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if not entries or strange:
        raise WeightsError(
            f"{path} is not a layout of weights known here ({some(strange) or 'nothing'} "
            "where tensors should be); save the model's state dict alone, as safetensors."
        )
    if len(entries) > MAX_TENSORS:
        raise WeightsError(
            f"{path} holds {len(entries):,} tensors (at most {MAX_TENSORS:,}); that is no network "
            "known here: give one network's state dict."
        )
    return entries


def _without_shared_prefix(tensors: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Short name -> (original name, tensor)."""
    short = {name: name for name in tensors}  # original -> short
    for prefix in SHARED_PREFIXES * 2:
        if all(name.startswith(prefix) for name in short.values()):
            short = {name: value.removeprefix(prefix) for name, value in short.items()}
    return {short[name]: (name, tensor) for name, tensor in tensors.items()}
