"""The `endofm` command: corpora, model folders and reports."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from tyro.conf import OmitArgPrefixes, Positional

from endofm import hub
from endofm.data.folder import manifest_from_folder
from endofm.data.manifest import Segment, write_manifest
from endofm.data.synthetic import CorpusSpec, write_corpus
from endofm.errors import EndofmError, ManifestError
from endofm.models.registry import create_model, list_models
from endofm.report.page import run_page


@dataclass(frozen=True)
class Manifest:
    """List the videos below a folder, cut into clips, as a manifest to pretrain on."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder that holds videos, or folders of frames, at any depth."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT.csv")]
    """The manifest to write (CSV)."""
    clip_seconds: float | None = 5.0
    """Cut videos into clips this long; None: every video is one clip."""
    root: Path | None = None
    """Folder the manifest's paths start from; by default the manifest's own, or else FOLDER."""


@dataclass(frozen=True)
class Synthetic:
    """Make a corpus of synthetic endoscopy with labels, masks and boxes; goes on where it was."""

    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write: videos, masks, boxes.csv and manifest.csv."""
    spec: OmitArgPrefixes[CorpusSpec] = CorpusSpec()


@dataclass(frozen=True)
class Check:
    """Load a model folder and see whether it gives its reference output on this machine."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A model folder, as a run exports it."""


@dataclass(frozen=True)
class Report:
    """Write report.html into the folder of a pretraining run."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN_FOLDER")]
    """The --run.out of a run."""


@dataclass(frozen=True)
class Models:
    """List the backbones that can be trained."""


Command = (
    Annotated[Manifest, tyro.conf.subcommand("manifest")]
    | Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Models, tyro.conf.subcommand("models")]
)
DESCRIPTION = "Corpora, models and reports of endofm; `python -m pretrain` trains."


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a fault of the input or the disk is one sentence and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    command: Command = tyro.cli(Command, args=words, prog="endofm", description=DESCRIPTION)
    try:
        act(command)
    except (EndofmError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(
            Text.assemble(("error:", "red"), f" {_sentence(error)}")
        )
        raise SystemExit(1) from error


def act(command: Command) -> None:
    """Do what the command asks."""
    match command:
        case Manifest():
            make_manifest(command)
        case Synthetic(out, spec):
            with _progress("clips") as show:
                manifest = write_corpus(out, spec, lambda done: show(done, spec.num_clips))
            _say(f"{spec.num_clips} clips are in {out}; their manifest is {manifest}.")
        case Check(folder):
            check_model(folder)
        case Report(folder):
            _say(f"{run_page(folder)} shows the run.")
        case Models():
            for name in list_models():
                _say(f"{name}  {_describe(name)}")


def make_manifest(command: Manifest) -> None:
    """Find clips, say what was found and what was left out, write the manifest."""
    folder, home = command.folder.resolve(), command.out.resolve().parent
    root = _root(folder, home, command.root)
    with _progress("paths") as show:
        segments, left_out = manifest_from_folder(folder, command.clip_seconds, progress=show)
    for sentence in left_out:
        _say(f"left out: {sentence}")
    if not segments:
        raise ManifestError(f"{folder} holds no usable video, so {command.out} is not written.")
    write_manifest(command.out, [_moved(segment, root) for segment in segments])
    videos = len({segment.path for segment in segments})
    frames = sum(segment.num_frames or 0 for segment in segments)
    _say(
        f"{command.out} is written: clips {len(segments)}, files and folders {videos}, "
        f"frames {frames}, left out {len(left_out)}."
    )
    flags = ["--data.manifests", str(command.out)]
    if root != home:
        _say("Its paths do not start from its own folder, so --data.root must be given.")
        flags += ["--data.root", str(root)]
    recipe = "--config pretrain/configs/vits16.yaml"
    _say(
        f"What training on it would take: python -m pretrain {recipe} {shlex.join(flags)} --explain"
    )


def check_model(folder: Path) -> None:
    """Say what a model folder holds; raises `WeightsError` where it is not what it should be."""
    model = hub.load(folder)
    difference = hub.check(folder, model)
    config, spec = model.config, model.input_spec
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    _say(
        f"architecture  TimeSformer, {config.attention.replace('_', ' ')} attention, width "
        f"{config.width}, depth {config.depth}, {config.num_heads} heads, patches of "
        f"{config.patch_pixels} px, {millions:.1f} M parameters"
    )
    _say(
        f"input         {spec.num_frames} frames of {spec.pixels} x {spec.pixels} px, RGB, mean "
        f"{list(spec.mean)}, std {list(spec.std)}"
    )
    _say(
        f"reference     relative difference {difference:.1e} "
        f"(at most {hub.REFERENCE_TOLERANCE:.0e}): as it was saved"
    )


def _root(folder: Path, home: Path, wanted: Path | None) -> Path:
    """Where a manifest's paths start: as wanted, or its home if that holds the folder."""
    if wanted is None:
        return home if folder.is_relative_to(home) else folder
    root = wanted.resolve()
    if not folder.is_relative_to(root):
        raise ManifestError(f"{folder} does not lie in the root {root}; give a root that holds it.")
    return root


def _moved(segment: Segment, root: Path) -> Segment:
    """The same clip seen from another root."""
    prefix = PurePosixPath(segment.root.relative_to(root).as_posix())
    path, group = str(prefix / segment.path), str(prefix / segment.group)
    return replace(segment, root=root, path=path, group=group)


def _describe(name: str) -> str:
    with torch.device("meta"):  # shapes without memory
        model = create_model(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{millions:.0f} M parameters"


def _sentence(error: EndofmError | OSError) -> str:
    if isinstance(error, EndofmError):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; free space there or choose another place."


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, silence elsewhere; yields what is to be told (done, total)."""
    columns = (TextColumn(unit), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(sentence: str) -> None:
    """A line as it is: names of files are not markup."""
    Console(soft_wrap=True, highlight=False).print(Text(sentence))
