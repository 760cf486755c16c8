"""`endofm doctor`: what a checkpoint is, what of it loads, and whether it looks trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.talk import say
from endofm.models.loading.doctor import Diagnosis
from endofm.models.loading.sizes import LoadOptions
from endofm.models.loading.weights import Which, some

VERDICTS = {
    0: "loads, and looks trained",
    1: "does not load",
    2: "loads, but see the warnings",
}


@dataclass(frozen=True)
class Doctor:
    """Say what a checkpoint is, which tensors load and which don't, and whether it looks trained.

    Exit status 0: loads and looks trained; 1: does not load; 2: loads, with warnings.
    """

    file: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A weight file of any layout, or a model folder."""
    which: Which = "teacher"
    """The network to look at, in files that hold both."""
    all: bool = False
    """List every tensor."""
    options: Annotated[LoadOptions, tyro.conf.arg(name="")] = field(default_factory=LoadOptions)

    def run(self) -> None:
        """Print the diagnosis; raises `SystemExit` with the status where that is not 0."""
        diagnosis = hub.examine(self.file, self.which, self.options)
        for line in _lines(diagnosis, self.all):
            say(line)
        if diagnosis.exit_code:
            raise SystemExit(diagnosis.exit_code)


def _lines(diagnosis: Diagnosis, whole: bool) -> Iterator[str]:
    config, spec, report = diagnosis.config, diagnosis.spec, diagnosis.report
    yield _line("file is", diagnosis.what)
    if config is not None:
        yield _line(
            "model",
            f"TimeSformer, {config.attention.replace('_', ' ')} attention, width {config.width}, "
            f"depth {config.depth}, {config.num_heads} heads, patches of {config.patch_pixels} px, "
            f"LayerNorm eps {config.layer_norm_eps:g}",
        )
    if spec is not None:
        yield _line(
            "input",
            f"{spec.num_frames} frames of {spec.pixels} x {spec.pixels} px, mean "
            f"{list(spec.mean)}, std {list(spec.std)} ({diagnosis.source_of_statistics})",
        )
    yield _line("loads", f"{len(report.loaded)} tensors")
    if whole:
        yield from (f"  {theirs} -> {ours}" for ours, theirs in report.loaded.items())
    yield from _grouped("left out", report.left_out, whole)
    yield from _grouped("not in it", report.started, whole)
    if report.missing:
        yield _line("missing", _names(report.missing, whole))
    if report.unknown:
        yield _line("unexplained", _names(report.unknown, whole))
    for name, (given, wanted) in report.misshapen.items():
        yield _line("wrong shape", f"{name} is {given} instead of {wanted}")
    for warning in diagnosis.warnings:
        yield _line("warning", warning)
    yield _line("verdict", VERDICTS[diagnosis.exit_code])


def _line(label: str, told: str) -> str:
    return f"{label:<12}  {told}"


def _grouped(label: str, reasons: Mapping[str, str], whole: bool) -> Iterator[str]:
    """A line a reason, with the names it is the reason for."""
    ordered = sorted(reasons, key=reasons.__getitem__)
    for why, names in groupby(ordered, key=reasons.__getitem__):
        yield _line(label, f"{_names(tuple(names), whole)}: {why}")


def _names(names: tuple[str, ...], whole: bool) -> str:
    told = ", ".join(names) if whole else some(names)
    return told if len(names) == 1 else f"{len(names)} ({told})"
