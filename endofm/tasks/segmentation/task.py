"""Segmentation as the fine-tuning program trains and judges it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from endofm.data.labelled.samples import ClipSpec, LabelledBatch
from endofm.errors import ConfigError
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.mask_figures import score_masks
from endofm.metrics.segmentation import MaskScore, class_table, score_frames, sequence_table
from endofm.models.released_segmentation import (
    ReleasedSegmentation,
    ReleasedSegmentationConfig,
    build_released_segmentation,
)
from endofm.models.timesformer import TimeSformer
from endofm.tasks.finetuning.contract import Figures, Prediction, Task, TaskConfig, in_order
from endofm.tasks.finetuning.trainable import Encoder
from endofm.tasks.segmentation.model import (
    SegmentationConfig,
    SegmentationOutput,
    SegmentationTask,
    TokenSegmentation,
    build_segmentation,
)


@dataclass(frozen=True)
class MaskPrediction:
    """The scores of some frames of a sequence, whose group is told."""

    group: str
    scores: list[MaskScore]


class Segmentation(Task):
    """The task around a `SegmentationTask`; masks are judged at the file's own size."""

    network: SegmentationTask
    selects_by = "pooled_dice"  # by frames, finding nothing would win where most are empty

    def __init__(self, network: SegmentationTask, clip_spec: ClipSpec) -> None:
        inner = network.network
        encoder = inner.backbone if isinstance(inner, TokenSegmentation) else inner
        super().__init__(network, encoder, clip_spec)

    def inputs(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Clips, and their masks int64 [B, T, P, P]."""
        masks = torch.from_numpy(np.stack(batch.truths)).to(batch.frames.device)
        return self.clip(batch), masks.long()

    def scalars(self, output: SegmentationOutput) -> dict[str, Tensor]:
        """The loss and its two parts."""
        return {
            "loss": output.total.detach(),
            "cross_entropy": output.cross_entropy.detach(),
            "dice_loss": output.dice.detach(),
        }

    def predict(self, batch: LabelledBatch) -> list[list[MaskPrediction]]:
        """The scores of every frame of each sample."""
        clips, predictions = self.clip(batch), []
        labels = range(1, len(self.classes))
        for number, (segment, truth) in enumerate(zip(batch.segments, batch.truths, strict=True)):
            masks = self.network.predict(clips[number : number + 1], batch.sizes[number])[0]
            frames = [segment.start_frame + index for index in batch.indices[number]]
            scores = score_frames(segment.path, frames, masks.cpu().numpy(), truth, list(labels))
            predictions.append([MaskPrediction(segment.group, scores)])
        return predictions

    def score(self, predictions: Iterable[Prediction], bootstrap: Bootstrap) -> Figures:
        """Figures of all frames; tables of classes and sequences beside them."""
        scores, groups = mask_scores(in_order(predictions))
        values = score_masks(scores, self.classes, groups, bootstrap)
        details = {
            "per_class": [vars(row) for row in class_table(scores)],
            "per_sequence": [vars(row) for row in sequence_table(scores)],
        }
        return Figures(values, "frames", details)

    def output(self, clip: Tensor) -> Tensor:
        """Scores [1, T, K, P, P]."""
        return self.network.logits(clip, (clip.shape[-2], clip.shape[-1]))


def mask_scores(predictions: Iterable[MaskPrediction]) -> tuple[list[MaskScore], Mapping[str, str]]:
    """All scores, and the group of each sequence."""
    groups: dict[str, str] = {}
    scores = []
    for prediction in predictions:
        scores += prediction.scores
        groups |= {score.sequence: prediction.group for score in prediction.scores}
    return scores, groups


def make_segmentation(
    model: Encoder, clip_spec: ClipSpec, config: TaskConfig, reset_head: bool = False
) -> Segmentation:
    """A task around a video transformer (light or released head), or around the released model.

    Raises `ConfigError` for any other.
    """
    if not isinstance(model, TimeSformer | ReleasedSegmentation):
        raise ConfigError(
            f"The {type(model).__name__} can't be trained for segmentation; give the weights of a "
            "video transformer."
        )
    settings = SegmentationConfig(len(clip_spec.classes), class_weights=config.class_weights)
    if config.head == "released" and not isinstance(model, ReleasedSegmentation):
        released = build_released_segmentation(
            ReleasedSegmentationConfig(
                num_classes=len(clip_spec.classes),
                width=model.width,
                depth=model.config.depth,
                num_heads=model.config.num_heads,
                image_pixels=clip_spec.pixels,
            )
        )
        released.start_from(model)
        model = released
    return Segmentation(build_segmentation(model, settings, reset_head), clip_spec)
