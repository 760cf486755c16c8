"""A backbone as one file that runs without endofm: ONNX (`.onnx`) or torch.export (`.pt2`).

The graph takes pixels as a video reader gives them, so that nobody has to repeat the input
statistics: `frames` uint8 [B, T, H, W, 3], RGB. It gives `feature` [B, D] and `tokens`
[B, 1 + N, D], the class token first, then the patches as (h w t). B is free; T, H and W are fixed,
as the embeddings are laid out for them.
"""

import copy
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from endofm.errors import ConfigError, WeightsError
from endofm.files import new_file
from endofm.models.registry import Backbone

TOLERANCE = 1e-4
"""Largest relative difference between an exported file's outputs and the model's."""

BATCHES = (1, 3)
"""Batch sizes a file is compared at; the graph is traced with another."""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
ONNX_BYTES = 2**31 - 2**24
"""An ONNX file ends at 2 GiB; some of it is left to the graph."""

Outputs = tuple[Tensor, Tensor]
Runner = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far its outputs are from the model's."""

    file: Path
    frames: tuple[int, int, int]
    """Frames, height and width it takes."""
    difference: float
    """The largest relative difference of `feature` and `tokens` at the batch sizes compared."""


def export(
    model: nn.Module, file: Path, num_frames: int | None = None, pixels: int | None = None
) -> Exported:
    """Write `file`, by its ending; it gets its name once its outputs are the model's.

    Frames and pixels are by default those of the model's `input_spec`. Raises `ConfigError` where
    an export can't be, `WeightsError` if the file's outputs differ by more than `TOLERANCE`.
    """
    file = Path(file)
    refuse(file)
    if not isinstance(model, Backbone):
        raise ConfigError(
            f"{file} can't be made of a {type(model).__name__}; only backbones are exported."
        )
    spec = model.input_spec
    shape = (num_frames or spec.num_frames, pixels or spec.pixels, pixels or spec.pixels)
    graph = _PixelsToTokens(copy.deepcopy(model).float().cpu()).eval().requires_grad_(False)
    _refuse_model(graph.model, shape, file)
    write = _write_onnx if file.suffix == ".onnx" else _write_pt2
    with new_file(file) as part:
        with torch.no_grad():
            write(graph, _noise(2, shape), part, _facts(graph.model, shape))
            run = _onnx_runner(part) if file.suffix == ".onnx" else _pt2_runner(part)
            difference = _difference(graph, run, [_noise(size, shape) for size in BATCHES])
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{file} was not written: its outputs would differ from the model's by "
                f"{difference:.1e} (relative; at most {TOLERANCE:.0e}); export to the other format."
            )
    return Exported(file, shape, difference)


def refuse(file: Path) -> None:
    """Raises `ConfigError` if a file of that name can't be made here; costs nothing."""
    if file.suffix not in (".onnx", ".pt2"):
        raise ConfigError(f"{file} ends in neither .onnx nor .pt2; these two can be exported.")
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file to write.")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and missing:
        raise ConfigError(
            f"Writing {file} needs {', '.join(missing)}; run `pip install 'endofm[export]'`, or "
            "export to .pt2, which needs nothing more."
        )


class _PixelsToTokens(nn.Module):
    """What is exported: input statistics and backbone."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Outputs:  # uint8 [B, T, H, W, 3] -> [B, D], [B, 1 + N, D]
        tokens = self.model.tokens(self.model.input_spec.normalize(frames))
        return tokens[:, 0], tokens  # the same as `forward` gives, for every kind of attention


def _refuse_model(model: Backbone, shape: tuple[int, int, int], file: Path) -> None:
    config = model.config
    if config.in_channels != 3:
        raise ConfigError(
            f"Exports take RGB frames, but this model wants {config.in_channels} channels."
        )
    if shape[0] < 1 or shape[1] < 1 or shape[1] % model.patch_pixels:
        raise ConfigError(
            f"A clip of {shape[0]} frames of {shape[1]} pixels can't be exported; at least one "
            f"frame is needed, and a multiple of the patch size {model.patch_pixels}."
        )
    num_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    if file.suffix == ".onnx" and num_bytes > ONNX_BYTES:
        raise ConfigError(
            f"{num_bytes / 2**30:.1f} GiB of weights don't fit into one .onnx file (2 GiB); "
            "export to .pt2."
        )


def _facts(model: Backbone, shape: tuple[int, int, int]) -> dict[str, str]:
    """What a user of the file should know, as its metadata."""
    frames, height, width = shape
    return {
        "description": f"{type(model).__name__} for endoscopy video, exported by endofm. Not a "
        "medical device.",
        "input": f"frames: uint8 RGB [batch, {frames}, {height}, {width}, 3], as decoded; the "
        "graph normalizes them. Any batch; other frame counts and sizes need another export.",
        "outputs": "feature: float32 [batch, width]; tokens: float32 [batch, 1 + patches, width], "
        "the class token (or mean; = feature) first, then patches by row, column, frame.",
        "settings": json.dumps(dataclasses.asdict(model.config)),
        "statistics": json.dumps({"mean": model.input_spec.mean, "std": model.input_spec.std}),
    }


def _noise(batch: int, shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, *shape, 3), dtype=torch.uint8, generator=generator)


def _write_onnx(graph: nn.Module, frames: Tensor, part: Path, facts: dict[str, str]) -> None:
    program = torch.onnx.export(
        graph,
        (frames,),
        dynamo=True,
        input_names=["frames"],
        output_names=["feature", "tokens"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise ConfigError("This PyTorch returned no ONNX program; install a newer one.")
    program.model.metadata_props.update(facts)
    program.save(part, external_data=False)


def _write_pt2(graph: nn.Module, frames: Tensor, part: Path, facts: dict[str, str]) -> None:
    program = torch.export.export(
        graph, (frames,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    with part.open("wb") as file:
        torch.export.save(program, file, extra_files={"endofm.json": json.dumps(facts, indent=2)})


def _onnx_runner(file: Path) -> Runner:
    import onnxruntime  # an extra: absent unless ONNX is wanted

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(frames: Tensor) -> Outputs:
        feature, tokens = session.run(["feature", "tokens"], {"frames": frames.numpy()})
        return torch.from_numpy(feature), torch.from_numpy(tokens)

    return run


def _pt2_runner(file: Path) -> Runner:
    with file.open("rb") as opened:
        module = torch.export.load(opened).module()

    def run(frames: Tensor) -> Outputs:
        feature, tokens = module(frames)
        return feature, tokens

    return run


def _difference(graph: nn.Module, run: Runner, batches: list[Tensor]) -> float:
    differences = [
        float((given - own).norm() / own.norm()) if given.shape == own.shape else float("inf")
        for frames in batches
        for own, given in zip(graph(frames), run(frames), strict=True)
    ]
    return float(torch.tensor(differences).max())  # unlike Python's max, never loses a NaN
