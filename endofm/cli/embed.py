"""`endofm embed`: many videos as files of features."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.device import Device, place
from endofm.cli.talk import progress, say
from endofm.data.manifests.folder import find_sources
from endofm.errors import ConfigError, RunError, VideoError
from endofm.files import write_csv
from endofm.models.outputs import check_model
from endofm.models.timesformer import TimeSformer
from endofm.tasks.embedding.files import check_suffix, read_settings
from endofm.tasks.embedding.videos import embed, fingerprint

FAILURES = "failures.csv"


@dataclass(frozen=True)
class Embed:
    """Features of whole videos, one file a video; the same command goes on where it was."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A model folder, or whatever `endofm.load` takes."""
    sources: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SOURCES")]
    """Videos, folders of pictures, and folders that hold such at any depth."""
    out: Path
    """Folder to write; below it the files keep the tree of the sources."""
    clip_seconds: float | None = None
    """Length of a clip, over which the model's frames are spread; None: 5 s, or frames in a row
    where nothing tells the rate."""
    step_seconds: float | None = None
    """From the start of a clip to that of the next; None: the length of a clip."""
    source_fps: float | None = None
    """Frames a second of folders of pictures."""
    tokens: bool = False
    """Write the patch tokens of every frame too; they take far more room than the features."""
    attention: bool = False
    """Write the attention maps of every frame too."""
    format: Literal["npz", "parquet"] = "npz"
    """Kind of file; parquet needs pyarrow."""
    batch_size: int = 8
    """Clips at a time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in; bfloat16 is faster on GPUs and keeps two to three digits."""
    device: Device = None
    """Where to compute; None: the GPU if there is one."""

    def run(self) -> None:
        """Embed what is not there yet; broken videos are listed, and the rest is done."""
        check_suffix(f".{self.format}")
        targets = _targets(self.sources, self.out, self.format)
        model = hub.load(self.model)
        check_model(model)
        missing = self._missing(targets, fingerprint(model))
        model = place(model, self.device).to(getattr(torch, self.precision))
        failures = []
        with progress("videos") as show:
            for number, (target, (source, settings)) in enumerate(missing.items()):
                show(number, len(missing))
                try:
                    self._embed(model, source, target, settings, _part(show, number, len(missing)))
                except VideoError as error:
                    say(f"not embedded: {error}")
                    failures.append((source, error))
            show(len(missing), len(missing))
        _list_failures(self.out / FAILURES, failures)
        say(
            f"{self.out}: embedded {len(missing) - len(failures)}, there already "
            f"{len(targets) - len(missing)}, not embedded {len(failures)}."
        )
        if failures:
            raise VideoError(
                f"{len(failures)} of {len(targets)} sources could not be embedded; "
                f"{self.out / FAILURES} says which and why."
            )

    def _embed(
        self,
        model: TimeSformer,
        source: Path,
        target: Path,
        settings: dict[str, Any],
        show: Callable[[int, int | None], None],
    ) -> None:
        embedding = embed(
            model,
            source,
            clip_seconds=self.clip_seconds,
            step_seconds=self.step_seconds,
            source_fps=settings["source_fps"],
            batch_size=self.batch_size,
            tokens=self.tokens,
            attention=self.attention,
            progress=show,
        )
        replace(embedding, settings=settings).save(target)

    def _missing(
        self, targets: dict[Path, Path], model: str
    ) -> dict[Path, tuple[Path, dict[str, Any]]]:
        """What is still to be made; `ConfigError` for a file that was made otherwise."""
        missing = {}
        for target, source in targets.items():
            settings = {
                "model": model,
                "clip_seconds": self.clip_seconds,
                "step_seconds": self.step_seconds,
                "source_fps": self.source_fps if source.is_dir() else None,
                "tokens": self.tokens,
                "attention": self.attention,
                "precision": self.precision,
            }
            if not _is_there(target, settings):
                missing[target] = (source, settings)
        return missing


def _targets(arguments: Sequence[Path], out: Path, suffix: str) -> dict[Path, Path]:
    """Where each source's features go: their tree starts at the folder that holds all of them."""
    if not arguments:
        raise ConfigError("No source is given; name videos, or folders that hold some.")
    sources: list[Path] = []
    for argument in arguments:
        path = argument.resolve()
        if not path.exists():
            raise VideoError(f"{argument} does not exist; correct the path.")
        left_out: list[str] = []
        found = list(find_sources(path, left_out)) if path.is_dir() else [path]
        for sentence in left_out:
            say(f"left out: {sentence}")
        if not found:
            raise VideoError(f"{argument} holds no video and no pictures; give another folder.")
        sources += found
    homes = [path.resolve() if path.is_dir() else path.resolve().parent for path in arguments]
    root = Path(os.path.commonpath(homes))
    if root in sources:
        root = root.parent
    inside = [source.relative_to(root) for source in sources]
    return {
        out / path.with_name(f"{path.name}.{suffix}"): source
        for path, source in zip(inside, sources, strict=True)
    }


def _is_there(target: Path, settings: dict[str, Any]) -> bool:
    """Whether a whole file of the same settings is there; one that is not whole is made again."""
    if not target.exists():
        return False
    try:
        made = read_settings(target)
    except RunError:
        return False
    for name, value in settings.items():
        if made.get(name) != value:
            raise ConfigError(
                f"{target} was made with {name} {made.get(name)}, but {value} is asked for; choose "
                "another --out, or delete what lies there."
            )
    return True


def _part(
    show: Callable[[float, float], None], number: int, total: int
) -> Callable[[int, int | None], None]:
    """Tells a bar of `total` videos how much of video `number` is done."""
    return lambda done, num_clips: show(number + done / (num_clips or done), total)


def _list_failures(path: Path, failures: Sequence[tuple[Path, VideoError]]) -> None:
    path.unlink(missing_ok=True)
    if failures:
        write_csv(path, ("source", "reason"), failures)
