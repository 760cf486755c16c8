"""Detection as the fine-tuning program trains and judges it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from endofm.data.labelled.annotations import Boxes
from endofm.data.labelled.samples import ClipSpec, LabelledBatch
from endofm.errors import ConfigError
from endofm.heads.detection import Dense
from endofm.metrics.bootstrap import Bootstrap
from endofm.metrics.detection import FrameBoxes, score_detection
from endofm.models.timesformer import TimeSformer
from endofm.tasks.detection.model import (
    DetectionConfig,
    DetectionOutput,
    DetectionTask,
    Found,
    Target,
    build_detection,
)
from endofm.tasks.finetuning.contract import Figures, Prediction, Task, in_order
from endofm.tasks.finetuning.trainable import Encoder


@dataclass(frozen=True)
class BoxPrediction:
    """The boxes of some frames, true and found, and their group."""

    group: str
    frames: list[FrameBoxes]


class Detection(Task):
    """The task around a `DetectionTask`; boxes are judged in the file's own pixels."""

    network: DetectionTask
    selects_by = "map_50"

    def __init__(self, network: DetectionTask, clip_spec: ClipSpec) -> None:
        super().__init__(network, network.network.backbone, clip_spec)

    def inputs(self, batch: LabelledBatch) -> tuple[Tensor, list[list[Target]], Tensor | None]:
        """Clips, their targets, and in video the places of the key frames."""
        device = batch.frames.device
        targets = [[_target(boxes).to(device) for boxes in clip] for clip in batch.truths]
        return self.clip(batch), targets, self._keys(batch)

    def scalars(self, output: DetectionOutput) -> dict[str, Tensor]:
        """The loss and its parts."""
        parts = {name: getattr(output, name).detach() for name in ("focal", "giou", "centerness")}
        if self.clip_spec.is_video_detection:
            parts |= {"video_focal": output.video_focal.detach()}
            parts |= {"video_giou": output.video_giou.detach()}
        return {"loss": output.total.detach(), **parts}

    def predict(self, batch: LabelledBatch) -> list[list[BoxPrediction]]:
        """The boxes of every judged frame of each sample."""
        keys = self._keys(batch)
        found = self.network.predict(self.clip(batch), batch.sizes, keys)
        predictions = []
        for number, segment in enumerate(batch.segments):
            indices = list(batch.indices[number])
            if keys is not None:
                indices = [indices[batch.keys[number]]]
            frames = [
                _frame_boxes(
                    segment.path, segment.start_frame + index, boxes, one, batch.sizes[number]
                )
                for index, boxes, one in zip(
                    indices, batch.truths[number], found[number], strict=True
                )
            ]
            predictions.append([BoxPrediction(segment.group, frames)])
        return predictions

    def score(self, predictions: Iterable[Prediction], bootstrap: Bootstrap) -> Figures:
        """Figures of all frames."""
        frames, groups = frame_boxes(in_order(predictions))
        scores = score_detection(frames, self.classes, bootstrap=bootstrap, groups=groups)
        details = scores.as_dict()
        details.pop("values", None)
        return Figures(scores.values, "frames", details)

    def output(self, clip: Tensor) -> Tensor:
        """The class scores at every point of each frame, [F, L, K]."""
        keys = None
        if self.clip_spec.is_video_detection:
            keys = torch.zeros(1, dtype=torch.int64, device=clip.device)
        told: Dense = self.network.network(clip, keys)[0]
        return told.logits

    def _keys(self, batch: LabelledBatch) -> Tensor | None:
        if not self.clip_spec.is_video_detection:
            return None
        return torch.tensor(batch.keys, device=batch.frames.device)


def frame_boxes(predictions: Iterable[BoxPrediction]) -> tuple[list[FrameBoxes], dict[str, str]]:
    """Every frame once, sorted, and the group of each sequence."""
    groups: dict[str, str] = {}
    frames: dict[tuple[str, int], FrameBoxes] = {}
    for prediction in predictions:
        for frame in prediction.frames:
            frames.setdefault((frame.sequence, frame.frame), frame)
            groups[frame.sequence] = prediction.group
    return [frames[key] for key in sorted(frames)], groups


def make_detection(model: Encoder, clip_spec: ClipSpec) -> Detection:
    """A task with a new head; raises `ConfigError` for what is no video transformer."""
    if not isinstance(model, TimeSformer):
        raise ConfigError(
            f"The {type(model).__name__} can't be trained for detection; give the weights of a "
            "video transformer."
        )
    config = DetectionConfig(len(clip_spec.classes), video=clip_spec.is_video_detection)
    return Detection(build_detection(model, config), clip_spec)


def _target(boxes: Boxes) -> Target:
    return Target(torch.from_numpy(boxes.corners), torch.from_numpy(boxes.classes))


def _frame_boxes(
    sequence: str, frame: int, boxes: Boxes, found: Found, size: tuple[int, int]
) -> FrameBoxes:
    return FrameBoxes(
        sequence,
        frame,
        boxes.corners,
        boxes.classes,
        found.boxes.float().cpu().numpy(),
        found.scores.float().cpu().numpy(),
        found.classes.cpu().numpy(),
        size,
    )
