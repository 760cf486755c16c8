"""Classes of clips and videos: one of several, or any number of labels.

Shapes: B clips, V views of a row, T frames, K classes, D width.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.data.labelled.samples import ClipSpec, LabelledBatch
from endofm.data.manifests.labels import Truth, count_classes
from endofm.data.manifests.manifest import Segment
from endofm.errors import ConfigError
from endofm.heads.classification import AttentiveHead, LinearHead, Pool
from endofm.losses.evidential import EvidentialLoss, fuse
from endofm.metrics.bootstrap import Bootstrap, Value, estimate
from endofm.metrics.classification import Sample, distinct, score_classification
from endofm.metrics.evidence import RejectMeasure
from endofm.models.registry import Backbone
from endofm.tasks.finetuning.contract import Figures, Prediction, Task, TaskConfig, in_order

PRESENT = "present_average_precision"


@dataclass
class ClassificationOutput:
    """A forward pass: the scalar to minimise, the share told rightly, and the scores."""

    total: Tensor
    accuracy: Tensor
    logits: Tensor  # [B, K]


class ClassificationTask(nn.Module):
    """Backbone, head and loss: cross-entropy, binary cross-entropy where labels are several, or an
    evidential loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: LinearHead | AttentiveHead,
        several: bool = False,
        class_weights: Sequence[float] = (),
        evidence: EvidentialLoss | None = None,
    ) -> None:
        """Raises `ConfigError` for another number of weights than of classes."""
        super().__init__()
        if class_weights and len(class_weights) != head.num_classes:
            raise ConfigError(
                f"task.class_weights has {len(class_weights)} values, but there are "
                f"{head.num_classes} classes; give one for each."
            )
        self.backbone = backbone
        self.head = head
        self.several = several
        self.evidence = evidence
        weights = torch.tensor(class_weights) if class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, clip: Tensor, truth: Tensor) -> ClassificationOutput:
        """Loss of normalised clips [B, 3, T, H, W], or of pooled features [B, D].

        `truth` is int64 [B], or float [B, K] of 0 and 1 where labels are several; `class_weights`
        act on the clip's class, there on each label's positives.
        """
        logits = self.logits(clip)
        if self.several:
            total = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.class_weights)
            accuracy = ((logits > 0) == (truth > 0.5)).float().mean()
            return ClassificationOutput(total, accuracy, logits)
        if self.evidence is not None:
            total = self.evidence(logits, truth, self.class_weights)
        else:
            total = F.cross_entropy(logits, truth, weight=self.class_weights)
        accuracy = (logits.argmax(dim=1) == truth).float().mean()
        return ClassificationOutput(total, accuracy, logits)

    def logits(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] or [B, D] -> [B, K], float32
        """Scores before softmax or sigmoid."""
        if clip.ndim == 2:
            if not isinstance(self.head, LinearHead):
                raise ConfigError("Pooled features are for a linear head; give it clips.")
            return self.head.classify(clip).float()
        return self.head(self.backbone.tokens(clip)).float()  # type: ignore[no-any-return]

    def features(self, clip: Tensor) -> Tensor:  # [B, 3, T, H, W] -> [B, D]
        """What the linear head sees of clips."""
        assert isinstance(self.head, LinearHead)
        return self.head.pool(self.backbone.tokens(clip))


@dataclass(frozen=True)
class RowPrediction:
    """What is thought of one row of the manifest."""

    path: str
    name: str
    group: str
    frame: int
    truth: Truth
    probabilities: tuple[float, ...]
    alphas: tuple[float, ...] = ()
    """Evidence and prior, of an evidential head."""


class Classification(Task):
    """The task around a `ClassificationTask`."""

    network: ClassificationTask

    def __init__(
        self, network: ClassificationTask, clip_spec: ClipSpec, positive: str = ""
    ) -> None:
        super().__init__(network, network.backbone, clip_spec)
        if positive and (positive not in clip_spec.classes or len(clip_spec.classes) != 2):
            raise ConfigError(
                f"task.positive is '{positive}', but the classes are "
                f"{', '.join(clip_spec.classes)}; "
                "name one of two, or none."
            )
        self.positive = positive or None
        self.selects_by = PRESENT if network.several else "macro_f1"

    def begin(self, epoch: float) -> None:
        """Let an evidential loss draw wrong evidence to none more and more."""
        if self.network.evidence is not None:
            self.network.evidence.anneal(epoch)

    def clip(self, batch: LabelledBatch) -> Tensor:
        """Normalised frames, or features as they are."""
        return batch.frames if batch.frames.ndim == 2 else super().clip(batch)

    def inputs(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Clips, and their classes as numbers or as zeros and ones."""
        return self.clip(batch), self._targets(batch.truths).to(batch.frames.device)

    def scalars(self, output: ClassificationOutput) -> dict[str, Tensor]:
        """Loss and share told rightly in the batch."""
        return {"loss": output.total.detach(), "train_accuracy": output.accuracy}

    def predict(self, batch: LabelledBatch) -> list[list[RowPrediction]]:
        """One record a row: the mean of the probabilities of its views, or their evidence fused."""
        logits = self.network.logits(self.clip(batch))
        evidence = self.network.evidence
        if evidence is not None:
            alphas = [
                fuse(one) for one in torch.split(evidence.alphas(logits).double(), batch.views)
            ]
            return [
                [row_prediction(segment, truth, evidence.probabilities(one).tolist(), one.tolist())]
                for segment, truth, one in zip(batch.segments, batch.truths, alphas, strict=True)
            ]
        told = logits.sigmoid() if self.network.several else logits.softmax(dim=1)
        rows = torch.split(told.double(), batch.views)
        return [
            [row_prediction(segment, truth, probabilities.mean(dim=0).tolist())]
            for segment, truth, probabilities in zip(
                batch.segments, batch.truths, rows, strict=True
            )
        ]

    def score(self, predictions: Iterable[Prediction], bootstrap: Bootstrap) -> Figures:
        """Figures of what `samples_of` says, and `accuracy_per_group` where that is rows."""
        rows = in_order(predictions)
        samples, unit = samples_of(rows)
        scores = score_classification(samples, self.classes, self.positive, bootstrap)
        values, details = dict(scores.values), scores.as_dict()
        del details["values"]
        if self.network.several:
            values[PRESENT] = present_precision(values)
            return Figures(values, unit, details)
        if unit == "rows":
            values |= per_group(rows, bootstrap)
        figures, details["rejects"] = self._rejects(distinct(samples), bootstrap)
        return Figures(values | figures, unit, details)

    def output(self, clip: Tensor) -> Tensor:
        """Scores [1, K]."""
        return self.network.logits(clip)

    def uncertainty(self, sample: Sample) -> float:
        """Of an evidential head from its evidence, else 1 - the highest probability."""
        evidence = self.network.evidence
        if evidence is None:
            return 1 - max(sample.probabilities)
        return float(evidence.uncertainty(torch.tensor(sample.alphas, dtype=torch.float64)))

    def _rejects(
        self, samples: Sequence[Sample], bootstrap: Bootstrap
    ) -> tuple[dict[str, Value], dict[str, Any]]:
        """Figures of an evidential head's uncertainty; of any head the curve for `details`."""
        uncertainty = np.array([self.uncertainty(sample) for sample in samples])
        is_right = np.array([int(np.argmax(s.probabilities)) == s.truth for s in samples])
        measure = RejectMeasure(uncertainty, is_right)
        curve = [vars(point) for point in measure.curve(np.ones(len(samples)))]
        if self.network.evidence is None:
            return {}, {"by": "1 - the highest probability", "curve": curve}
        whose = "every sample is told " + ("rightly" if is_right.all() else "wrongly")
        groups = [sample.group for sample in samples]
        figures = estimate(measure, groups, bootstrap, {"error_auc": whose})
        return figures, {"by": "uncertainty of the evidence", "curve": curve}

    def _targets(self, truths: Sequence[Truth]) -> Tensor:
        if not self.network.several:
            return torch.tensor(truths)
        targets = torch.zeros(len(truths), len(self.classes))
        for row, labels in enumerate(truths):
            targets[row, list(labels) if isinstance(labels, tuple) else [labels]] = 1
        return targets


def row_prediction(
    segment: Segment, truth: Truth, probabilities: Sequence[float], alphas: Sequence[float] = ()
) -> RowPrediction:
    """The record of a row."""
    return RowPrediction(
        segment.path,
        segment.name,
        segment.group,
        segment.start_frame,
        truth,
        tuple(min(max(p, 0.0), 1.0) for p in probabilities),
        tuple(alphas),
    )


def samples_of(rows: Sequence[RowPrediction]) -> tuple[list[Sample], str]:
    """What is scored: the mean over the rows of each group where all of them have one truth
    (`groups`), else of each file (`files`), else the rows themselves (`rows`). Evidence is summed
    over rows, not averaged.
    """
    distinct = {row.name: row for row in reversed(rows)}.values()
    for unit, key in (("groups", "group"), ("files", "path")):
        wholes: dict[str, list[RowPrediction]] = defaultdict(list)
        for row in distinct:
            wholes[getattr(row, key)].append(row)
        if all(len({row.truth for row in whole}) == 1 for whole in wholes.values()):
            return [_mean(name, wholes[name]) for name in sorted(wholes)], unit
    ordered = sorted(distinct, key=lambda row: (row.path, row.frame))
    return [
        Sample(row.name, row.group, row.truth, row.probabilities, row.alphas) for row in ordered
    ], "rows"


def _mean(name: str, rows: Sequence[RowPrediction]) -> Sample:
    ordered = sorted(rows, key=lambda row: row.name)  # so that sums round alike everywhere
    alphas = np.sum([row.alphas for row in ordered], axis=0)
    told = np.mean([row.probabilities for row in ordered], axis=0)
    if alphas.size:
        told = alphas / alphas.sum()
    return Sample(name, rows[0].group, rows[0].truth, tuple(told.tolist()), tuple(alphas.tolist()))


def present_precision(values: Mapping[str, Value]) -> Value:
    """The mean average precision over the labels that have samples, to choose checkpoints by."""
    of_labels = [value for name, value in values.items() if name.startswith("average_precision/")]
    known = [value.value for value in of_labels if value.value is not None]
    if not known:
        return Value(None, reason="no sample has a label")
    return Value(sum(known) / len(known), reason="no interval: a mean over the labels there are")


def per_group(rows: Sequence[RowPrediction], bootstrap: Bootstrap) -> dict[str, Value]:
    """The mean over groups of each one's own accuracy, as workflow phases are reported by video."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row in {row.name: row for row in rows}.values():
        right[row.group].append(int(np.argmax(row.probabilities)) == row.truth)
    groups = sorted(right)
    shares = np.array([np.mean(right[group]) for group in groups])

    def measure(weights: Any) -> dict[str, float]:
        return {"accuracy_per_group": float(weights @ shares / weights.sum())}

    return estimate(measure, groups, bootstrap)


def build_classification(
    backbone: Backbone,
    clip_spec: ClipSpec,
    config: TaskConfig,
    truths: Sequence[Truth] = (),
) -> Classification:
    """A task with a new head; `truths` of the training rows weigh the loss, if that is asked for.

    Raises `ConfigError` for weights of other classes.
    """
    num_classes = len(clip_spec.classes)
    if config.head == "attentive":
        head: LinearHead | AttentiveHead = AttentiveHead(backbone.width, num_classes)
    else:
        pool: Pool = "mean" if config.head == "mean" else "class_token"
        head = LinearHead(backbone.width, num_classes, pool)
    several = config.kind == "multi_label"
    weights: Sequence[float] = config.class_weights
    if config.balance == "loss" and truths:
        weights = balanced_weights(truths, num_classes, several)
    evidence = EvidentialLoss(config.evidence) if config.evidence else None
    network = ClassificationTask(backbone, head, several, weights, evidence)
    return Classification(network, clip_spec, config.positive)


def balanced_weights(truths: Sequence[Truth], num_classes: int, several: bool) -> list[float]:
    """Of one label a row: all / (K rows of the class), mean 1 over rows; of several: the negatives
    over the positives of each.
    """
    counts = count_classes(truths, num_classes)
    if several:
        return [(len(truths) - count) / count for count in counts]
    return [len(truths) / (num_classes * count) for count in counts]
