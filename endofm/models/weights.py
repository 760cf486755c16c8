"""Weight files: read without running code, and put into a model with every name accounted for."""

import argparse
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from endofm.errors import WeightsError

Which = Literal["teacher", "student"]

SHARED_PREFIXES = ("module.", "_orig_mod.", "model.")  # taken off where every name has them
LAYERS = ("model_state", "state_dict", "model")  # entries that hold the tensors, one in another
LEFT_OUT = ("head.", "linear.")  # a projection head or a classifier: no part of a backbone


@dataclass(frozen=True)
class LoadReport:
    """What became of the names in a weight file."""

    loaded: tuple[str, ...]
    """Names that are now in the model."""
    left_out: tuple[str, ...]
    """Names the model has no use for: heads and classifiers."""

    def __str__(self) -> str:
        left = f", left out {some(self.left_out)}" if self.left_out else ""
        return f"loaded {len(self.loaded)} tensors{left}"


def read_tensors(path: str | Path, which: Which = "teacher") -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or a PyTorch checkpoint, by their plain names.

    Wrappings come off: `student` or `teacher` (chosen by `which`, where the file has them),
    `model_state`, `state_dict`, `model`, and the prefixes `module.`, `model.`, `backbone.`. No
    pickled code runs: apart from tensors only plain data is accepted. Raises `WeightsError`.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give a .safetensors or .pth file.")
    _refuse_what_is_no_weights(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _unwrap(content, which, path)


def load_backbone_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Puts tensors into a backbone, exactly: each name there, each shape right, none unexplained.

    Heads (`head.*`, `linear.*`) are left out and listed. Raises `WeightsError` before anything is
    changed. Embeddings are never resized here: a model is made for its weights.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    left_out = [name for name in tensors if name not in own and name.startswith(LEFT_OUT)]
    unknown = [name for name in tensors if name not in own and name not in left_out]
    if missing or unknown:
        lacks = f"{len(missing)} tensors are missing ({some(missing)})" if missing else ""
        extra = f"{len(unknown)} have no place in it ({some(unknown)})" if unknown else ""
        raise WeightsError(
            f"The weights don't fit the model: {' and '.join(filter(None, (lacks, extra)))}; "
            "make the model with the weights' own depth and attention, or start from image "
            "weights with load_image_weights."
        )
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise WeightsError(_other_shape(name, tensors[name], tensor, model))
    model.load_state_dict({name: tensors[name] for name in own}, strict=True)
    return LoadReport(loaded=tuple(own), left_out=tuple(left_out))


def some(names: Sequence[object], most: int = 3) -> str:
    """A few names for a message."""
    return ", ".join(str(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def reason(error: Exception) -> str:
    """The first sentence of what a library says."""
    told = f"{type(error).__name__}: {str(error).strip()}"
    return told.splitlines()[0].split(". ")[0].rstrip(".: ")


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


def _refuse_what_is_no_weights(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
    except OSError as error:
        raise WeightsError(f"{path} can't be opened ({reason(error)}).") from error
    if not start:
        raise WeightsError(f"{path} is empty; download it again.")
    if start.startswith((b"<", b"\xef\xbb\xbf<")):
        raise WeightsError(
            f"{path} is a web page, not weights; open its link in a browser and save the file."
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not weights; run `git lfs pull`.")


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} can't be read as safetensors ({reason(error)}); it may be cut off: "
            "download it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_plain_data()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a broken pickle raises nearly anything; all of it means: unreadable
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise WeightsError(
                f"{path} holds code or objects ({named[1]}) beside its tensors and was not loaded; "
                "save its state dict alone, as safetensors."
            ) from error
        raise WeightsError(
            f"{path} can't be read as a PyTorch checkpoint ({reason(error)}); it may be "
            "cut off or of another format: download it again."
        ) from error


def _plain_data() -> list[Any]:
    """What checkpoints hold beside tensors and can't act: argument lists and numpy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    return [
        argparse.Namespace,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 names it
        (scalar, "numpy._core.multiarray.scalar"),  # as numpy 2 does
        *{type(np.dtype(kind)) for kind in kinds},
    ]


def _unwrap(content: Any, which: Which, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and ("student" in content or "teacher" in content):
        if which not in content:
            raise WeightsError(f"{path} has no {which}; it holds {some(list(content), 8)}.")
        content = content[which]
    parts = [content]
    if isinstance(content, Mapping) and "backbone_state_dict" in content:  # Endo-FM's PolypDiag
        parts = [content["backbone_state_dict"], content.get("state_dict", {})]
    plain: dict[str, Tensor] = {}
    for part in parts:
        for name, tensor in _without_shared_prefix(_tensors_within(part, path)).items():
            short = name.removeprefix("backbone.")
            if short in plain:
                raise WeightsError(f"{path} has {short} twice; keep one of them.")
            plain[short] = tensor.detach()
    return plain


def _tensors_within(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in LAYERS:
        for layer in LAYERS:
            if isinstance(content, Mapping) and layer in content:
                content = content[layer]
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
    return entries


def _without_shared_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in SHARED_PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
