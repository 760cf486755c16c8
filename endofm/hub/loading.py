"""A model from whatever a user holds: a folder, a weight file, timm's name, a name on the Hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endofm.errors import ConfigError, WeightsError
from endofm.hub.folder import load as load_folder
from endofm.hub.huggingface import fetch
from endofm.models.loading.doctor import Diagnosis, examine_file, examine_model
from endofm.models.loading.published import Published, load_published, load_timm
from endofm.models.loading.sizes import LoadOptions
from endofm.models.loading.weights import LoadReport, Which

TIMM = "timm:"


@dataclass(frozen=True)
class Found:
    """A model, and where it is from."""

    model: Any
    """A backbone or a `ReleasedSegmentation`, with its `input_spec`."""
    report: LoadReport
    """What became of every tensor."""
    provenance: dict[str, str]
    """For a model card: the source and its fingerprint, the kind of file, what was left out."""


def load(
    source: str | Path,
    which: Which = "teacher",
    revision: str | None = None,
    *,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Any:
    """The model in a folder, a weight file, `timm:NAME` or `owner/name` on the Hugging Face Hub.

    A backbone in evaluation mode with its `input_spec` (of weight files a `TimeSformer`, of folders
    what they hold): `model(clip)` gives `[B, D]` for a clip `[B, C, T, H, W]`, `model.tokens(clip)`
    all tokens. Endo-FM's segmentation file alone gives a `ReleasedSegmentation`. `which` chooses
    the network of files that hold student and teacher, `revision` a branch, tag or commit on the
    Hub. What weight files don't tell follows the kind of file (heads of 64, eps 1e-6, its
    normalization) unless given. Raises `WeightsError`.
    """
    options = LoadOptions(num_heads, layer_norm_eps, mean, std)
    return find(source, which, revision, options).model


def find(
    source: str | Path,
    which: Which = "teacher",
    revision: str | None = None,
    options: LoadOptions | None = None,
) -> Found:
    """The same with the report and the provenance."""
    path, name = Path(source), str(source)
    asked = options or LoadOptions()
    _refuse_unused(name, path, revision, asked)
    try:
        if path.is_dir():
            return _of_folder(path, {"source": path.name})
        if name.startswith(TIMM):
            published = load_timm(name.removeprefix(TIMM), asked)
            return _of_published(published, {"source": name})
        if path.is_file():
            published = load_published(path, which, asked)
            return _of_published(published, {"source": path.name, "sha256": _sha256(path)})
    except ConfigError as error:
        raise WeightsError(f"{name} can't be loaded so: {error}") from error
    if not isinstance(source, Path) and _is_hub_name(name):
        return _of_folder(fetch(name, revision), {"source": name, "revision": revision or "main"})
    raise WeightsError(
        f"{name} is not a model folder, a weight file, `timm:NAME` or owner/name on the Hub of "
        "Hugging Face; mind the spelling and the folder you are in."
    )


def examine(
    source: str | Path, which: Which = "teacher", options: LoadOptions | None = None
) -> Diagnosis:
    """The doctor's diagnosis of a weight file or a model folder; raises `WeightsError`."""
    path = Path(source)
    if path.is_dir():
        return examine_model(load_folder(path), "a model folder of endofm, as it was saved")
    return examine_file(path, which, options or LoadOptions())


def _is_hub_name(name: str) -> bool:
    """`owner/name`; what starts or ends like a path or a file is none."""
    parts = name.split("/")
    suffixes = (".pth", ".pt", ".bin", ".tar", ".pyth", ".safetensors", ".ckpt")
    return (
        len(parts) == 2
        and all(parts)
        and parts[0] not in (".", "..", "~")
        and not (name.endswith(suffixes))
    )


def _refuse_unused(name: str, path: Path, revision: str | None, options: LoadOptions) -> None:
    is_file = path.is_file()
    if revision is not None and (path.exists() or name.startswith(TIMM)):
        raise WeightsError(f"{name} has no revisions; those are for names on the Hugging Face Hub.")
    if options != LoadOptions() and not (is_file or name.startswith(TIMM)):
        raise WeightsError(
            f"{name} is a model folder, which tells its heads, eps and normalization itself; those "
            "options are for weight files."
        )


def _of_folder(folder: Path, provenance: dict[str, str]) -> Found:
    model = load_folder(folder)
    report = LoadReport({name: name for name in model.state_dict()})
    return Found(model, report, {**provenance, "kind": "a model folder of endofm"})


def _of_published(published: Published, provenance: dict[str, str]) -> Found:
    report = published.report
    told = {**provenance, "kind": published.title}
    if published.network:
        told["network"] = published.network
    told["left out"] = ", ".join(sorted({*report.left_out.values()})) or "nothing"
    told["not from the source"] = ", ".join(sorted({*report.started.values()})) or "nothing"
    return Found(published.model, report, told)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
