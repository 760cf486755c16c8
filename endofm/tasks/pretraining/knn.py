"""How well the teacher's nearest neighbours know a label, while a run is under way."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from endofm.data.loading.batches import Batches
from endofm.data.loading.workers import Clips
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.manifests.quarantine import without_quarantined
from endofm.data.pretraining.views import STATISTICS, ViewsConfig
from endofm.data.videos.clips import center_clip
from endofm.errors import ConfigError
from endofm.metrics.representation import Features, Labels, balanced_accuracy, knn_predict
from endofm.models.build import ModelConfig, build_backbone
from endofm.models.input import InputSpec
from endofm.tasks.embedding.features import embed_clips
from endofm.tasks.pretraining.endofm import PretrainingTask
from endofm.tasks.pretraining.vcl import ConceptTask
from endofm.training.log import RunLog
from endofm.training.setup import Run
from endofm.training.sharding import whole_state

MAX_CLIPS = 1000
"""The clips stay in memory: 1.2 MB each at 8 frames of 224 x 224."""


class OnlineKnn:
    """Balanced accuracy of k-NN on a small labelled list, every n steps; without an option none.

    Each clip is asked for by the clips of all other groups, in features of a copy of the teacher
    on the main process. The run itself is not touched, random numbers included.
    """

    def __init__(
        self, run: Run, model: ModelConfig, views: ViewsConfig, root: Path | None, workers: int
    ) -> None:
        """Read, check and decode the list that `run.knn` names; its paths start from `root`.

        Raises `ConfigError` for a list that can't be asked, `ManifestError` for a bad one,
        `VideoError` for a clip of it that can't be read.
        """
        self.run, self.every = run, 0
        if run.config.knn is None:
            return
        _, self.label, self.every = run.config.knn
        segments = read_list(run.config.knn, root)
        if not run.accelerator.is_main_process:
            return
        self.labels = np.array([segment.labels[self.label] for segment in segments])
        self.groups = np.array([segment.group for segment in segments])
        mean, std = STATISTICS[views.statistics]
        spec = InputSpec(mean, std, max(views.global_frames), views.global_pixels)
        with torch.random.fork_rng(devices=[]):
            self.backbone = build_backbone(model, views.global_pixels, views.global_frames[0])
        self.backbone.to(run.device).eval().input_spec = spec
        order = [[number] for number in range(len(segments))]
        clips = ListedClips(segments, spec)
        patience = run.config.patience_seconds
        self.clips = np.concatenate(list(Batches(clips, order, workers, False, np.stack, patience)))

    def after(self, step: int, task: PretrainingTask | ConceptTask, log: RunLog) -> None:
        """Where one is due after a step: a score of the task's teacher, noted in the log.

        A collective call.
        """
        if not self.every or (step + 1) % self.every:
            return
        with log.aside():
            weights = whole_state(task.teacher.backbone)
            if not self.run.accelerator.is_main_process:
                return
            self.backbone.load_state_dict(weights)
            features = embed_clips(self.backbone, self.clips)
            score = group_accuracy(features, self.labels, self.groups)
        told = f"step {step + 1}  k-NN {self.label} {score:.3f}"
        log.note(step + 1, {"knn_accuracy": score}, told)


class ListedClips(Clips[npt.NDArray[np.uint8]]):
    """Segments as a finished model is shown them: uint8 [T, P, P, 3]."""

    def __init__(self, segments: Sequence[Segment], spec: InputSpec) -> None:
        super().__init__()
        self.segments, self.spec = segments, spec

    def __getitem__(self, number: int) -> npt.NDArray[np.uint8]:
        """Raises `VideoError` for a clip that can't be read."""
        segment = self.segments[number]
        self.begin(segment.name)
        return center_clip(segment, self.spec.num_frames, self.spec.pixels)


def read_list(knn: tuple[Path, str, int], root: Path | None) -> list[Segment]:
    """The clips of a labelled list, files unopened.

    Raises `ConfigError` for a list that neighbours can't be asked about, `ManifestError` for a bad
    one.
    """
    manifest, label, every = knn
    segments, _ = without_quarantined(manifest, read_manifest(manifest, root))
    check_list(segments, manifest, label, every)
    return segments


def check_list(segments: Sequence[Segment], manifest: Path, label: str, every: int) -> None:
    """Raise `ConfigError` for a list that neighbours can't be asked about."""
    unlabelled = [segment.name for segment in segments if not segment.labels.get(label)]
    if every < 1 or unlabelled:
        raise ConfigError(
            f"run.knn takes a manifest, a label and a number of steps above 0, but it has {every} "
            f"steps, and {manifest} has {len(unlabelled)} clips without a label_{label}"
            f"{f' (the first: {unlabelled[0]})' if unlabelled else ''}."
        )
    if len(segments) > MAX_CLIPS:
        raise ConfigError(
            f"{manifest} has {len(segments)} clips; run.knn keeps them in memory and takes at most "
            f"{MAX_CLIPS}: give it a smaller list."
        )
    groups: dict[str, set[str]] = defaultdict(set)
    for segment in segments:
        groups[segment.labels[label]].add(segment.group)
    alone = [value for value, found in groups.items() if len(found) < 2]
    if len(groups) < 2 or alone:
        raise ConfigError(
            f"{manifest} has {len(groups)} values of label_{label}"
            + (f", and '{alone[0]}' in one group only" if alone else "")
            + "; run.knn needs at least two, each in two groups or more: a clip is asked for by "
            "other groups."
        )


def group_accuracy(features: Features, labels: Labels, groups: Labels) -> float:
    """Balanced accuracy of k-NN in [S, D] when a clip's own group has no vote."""
    predicted = np.empty_like(labels)
    for group in np.unique(groups):
        asked = groups == group
        predicted[asked] = knn_predict(features[~asked], labels[~asked], features[asked])
    return balanced_accuracy(labels, predicted)
