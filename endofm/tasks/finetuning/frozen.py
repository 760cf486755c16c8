"""Features of a frozen backbone, computed once and kept; and probes that need nothing else."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from endofm.data.labelled.clips import EvaluationClips, Piece
from endofm.data.labelled.samples import LabelledBatch
from endofm.data.manifests.labels import Truth, truth_of
from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Broken
from endofm.errors import ConfigError, RunError, VideoError
from endofm.files import new_file
from endofm.heads.classification import LinearHead
from endofm.metrics.representation import knn_votes, linear_model
from endofm.models.registry import Backbone
from endofm.processes import gather_objects
from endofm.tasks.classification.task import Classification, row_prediction
from endofm.tasks.embedding.videos import fingerprint
from endofm.tasks.finetuning.contract import Prediction
from endofm.tasks.finetuning.evaluating import Evaluation, Reader


class StoredFeatures(dict[str, Tensor]):
    """Features [V, D] by row; asking for a row that can't be read raises `VideoError` again."""

    def __init__(self, features: dict[str, Tensor], broken: dict[str, str]) -> None:
        super().__init__(features)
        self.broken = broken

    def __missing__(self, name: str) -> Tensor:
        raise VideoError(self.broken[name])


@dataclass(frozen=True)
class FeatureCache:
    """Where features lie and how they are computed."""

    folder: Path
    reader: Reader

    def features(self, task: Classification, segments: Sequence[Segment]) -> StoredFeatures:
        """Features of rows as the test shows them: from the cache, or computed and kept there.

        A collective call. The cache is keyed by the weights, what is shown, and the rows.
        """
        file = self.folder / f"{cache_key(task, segments)}.safetensors"
        found = _read(file) if file.is_file() else None
        if any(one is None for one in gather_objects(None if found is None else True)):
            found = self._compute(task, segments)
            if self.reader.accelerator.is_main_process:
                _write(file, found)
            self.reader.accelerator.wait_for_everyone()
        assert found is not None
        return found

    @torch.no_grad()
    def _compute(self, task: Classification, segments: Sequence[Segment]) -> StoredFeatures:
        accelerator = self.reader.accelerator
        task.network.eval()
        clips = EvaluationClips([Piece(segment) for segment in segments], task.clip_spec)
        features: dict[str, Tensor] = {}
        broken: dict[str, str] = {}
        for batch in self.reader.read(clips):
            items = batch.broken if isinstance(batch, LabelledBatch) else batch
            broken |= {item.name: item.reason for item in items}
            if isinstance(batch, LabelledBatch):
                with accelerator.autocast():
                    rows = task.network.features(task.clip(batch.to(accelerator.device)))
                parts = torch.split(rows.float().cpu(), batch.views)
                features |= dict(zip(batch.names, parts, strict=True))
        every = gather_objects((features, broken))
        return StoredFeatures(
            {name: row for part, _ in every for name, row in part.items()},
            {name: reason for _, part in every for name, reason in part.items()},
        )


def cache_key(task: Classification, segments: Sequence[Segment]) -> str:
    """Changes with the weights, the pooling, what is shown of a row, and the rows."""
    assert isinstance(task.encoder, Backbone)
    assert isinstance(task.network.head, LinearHead)
    clip_spec, data = task.clip_spec, task.clip_spec.data
    told = (
        fingerprint(task.encoder),
        task.network.head.pooling,
        (clip_spec.frames, clip_spec.pixels, clip_spec.legacy),
        (data.stride, data.every_frames, data.test_views),
        [(str(segment.root), segment.name) for segment in segments],
    )
    return hashlib.blake2b(repr(told).encode(), digest_size=12).hexdigest()


def probe(
    method: Literal["knn", "linear_probe"],
    task: Classification,
    features: StoredFeatures,
    train: Sequence[Segment],
    asked: Sequence[Segment],
    seed: int,
) -> Evaluation:
    """What neighbours (5, cosine) or logistic regression say of `asked`, having seen `train`.

    Of a training row the first view is seen; of a row asked for, the mean over its views. Raises
    `RunError` where a class has too few training rows to choose the regression's penalty.
    """
    if task.network.several:
        raise ConfigError(
            f"tuning.method {method} tells one label a row; for several train a head "
            "(tuning.method head)."
        )
    label, classes = task.clip_spec.data.label, task.classes
    seen = [segment for segment in train if segment.name in features]
    known = np.array([truth_of(segment, label, classes, False) for segment in seen])
    rows = np.stack([features[segment.name][0].numpy() for segment in seen])
    judged = [(i, segment) for i, segment in enumerate(asked) if segment.name in features]
    views = [features[segment.name].numpy() for _, segment in judged]
    stacked = np.concatenate(views)
    if method == "knn":
        votes = knn_votes(rows, known, stacked)
        told = votes / votes.sum(axis=1, keepdims=True)
    else:
        try:
            told = linear_model(rows, known, seed).predict_proba(stacked)
        except ValueError as error:
            raise RunError(
                f"The linear probe can't be fitted ({error}); take tuning.method knn or head, or "
                "more training rows."
            ) from error
    numbers = np.unique(known)
    predictions, start = [], 0
    for (piece, segment), of_row in zip(judged, views, strict=True):
        mean = np.zeros(len(classes))
        mean[numbers] = told[start : start + len(of_row)].mean(axis=0)
        start += len(of_row)
        truth: Truth = truth_of(segment, label, classes, False)
        predictions.append(Prediction(piece, row_prediction(segment, truth, mean.tolist())))
    lost = [Broken(s.name, features.broken[s.name]) for s in asked if s.name not in features]
    return Evaluation(predictions, lost)


def _write(file: Path, features: StoredFeatures) -> None:
    tensors = {name: row.contiguous() for name, row in features.items()}
    with new_file(file, "make room, and the same command resumes") as part:
        save_file(tensors, part, metadata={"broken": json.dumps(features.broken)})


def _read(file: Path) -> StoredFeatures:
    try:
        with safe_open(file, "pt") as reader:
            features = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
            broken = json.loads((reader.metadata() or {})["broken"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{file} can't be read ({error}); delete it.") from error
    return StoredFeatures(features, broken)
