"""The checkpoint doctor: what a weight file is, whether it loads, and whether it looks trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from endofm.models.input import InputSpec
from endofm.models.loading.published import DEFAULT, SEGMENTATION, plan_file
from endofm.models.loading.released_segmentation_weights import MARK, account, read_config
from endofm.models.loading.sizes import LoadOptions
from endofm.models.loading.untrained import are_equal, suspicions
from endofm.models.loading.weight_files import read_content
from endofm.models.loading.weights import Checkpoint, LoadReport, Which, misfit, unwrap
from endofm.models.released_segmentation import ReleasedSegmentation
from endofm.models.timesformer import TimeSformer, TimeSformerConfig


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    what: str
    """What the source is."""
    report: LoadReport
    """Which tensor goes where."""
    failure: str = ""
    """Why it does not load; empty if it does."""
    warnings: tuple[str, ...] = ()
    """What makes one doubt weights that load."""
    config: TimeSformerConfig | None = None
    """The backbone, where it is one."""
    spec: InputSpec | None = None
    """The input it wants."""
    source_of_statistics: str = ""
    """Where mean and deviation are from."""

    @property
    def exit_code(self) -> int:
        """0: loads and looks trained; 1: does not load; 2: loads, with warnings."""
        if self.failure:
            return 1
        return 2 if self.warnings else 0


def examine_file(
    path: str | Path, which: Which = "teacher", options: LoadOptions = DEFAULT
) -> Diagnosis:
    """Diagnose a weight file without building its network.

    Raises `WeightsError` where the file can't be read or holds another network.
    """
    path = Path(path)
    content = read_content(path)
    checkpoint = unwrap(content, which, path)
    if MARK in checkpoint.tensors:
        return _examine_segmentation(checkpoint)
    plan = plan_file(checkpoint, options)
    warnings = suspicions({name: plan.tensors[name] for name in plan.report.loaded})
    other: Which = "student" if which == "teacher" else "teacher"
    if other in checkpoint.left_out and are_equal(
        checkpoint.tensors, unwrap(content, other, path).tensors
    ):
        warnings.append("student and teacher are equal: saved before the first step")
    return Diagnosis(
        what=plan.kind.title,
        report=plan.report,
        failure="" if plan.report.is_exact else misfit(plan.report),
        warnings=tuple(warnings),
        config=plan.config,
        spec=plan.spec,
        source_of_statistics="as asked for" if options.mean or options.std else plan.kind.source,
    )


def examine_model(model: TimeSformer | ReleasedSegmentation, what: str) -> Diagnosis:
    """Diagnose a model that was loaded."""
    own = model.state_dict()
    return Diagnosis(
        what=what,
        report=LoadReport({name: name for name in own}),
        warnings=tuple(suspicions(own)),
        config=model.config if isinstance(model, TimeSformer) else None,
        spec=model.input_spec,
        source_of_statistics="the model's own configuration",
    )


def _examine_segmentation(checkpoint: Checkpoint) -> Diagnosis:
    with torch.device("meta"):
        model = ReleasedSegmentation(read_config(checkpoint.tensors))
    report = account(model, checkpoint.tensors)
    return Diagnosis(
        what=SEGMENTATION,
        report=report,
        failure="" if report.is_exact else misfit(report),
        warnings=tuple(suspicions(checkpoint.tensors)),
        spec=model.input_spec,
        source_of_statistics="Endo-FM's segmentation code: every frame from 0 to 1, then these",
    )
