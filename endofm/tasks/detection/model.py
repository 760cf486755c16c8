"""Boxes in every frame of a clip, or in one key frame with its neighbours' help.

Shapes: B clips, T frames, F frames of all clips that boxes are told for, L points, N boxes of a
frame, K classes, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from endofm.errors import ConfigError
from endofm.heads.detection import NUM_LEVELS, Dense, FcosHead, FeaturePyramid, dense
from endofm.heads.stft import Refined, VideoBranch
from endofm.losses.detection import (
    DetectionLosses,
    Points,
    assign_all,
    box_losses,
    detection_losses,
    make_points,
)
from endofm.models.outputs import patch_tokens
from endofm.models.timesformer import TimeSformer

TOLERANCE_PIXELS = 0.5
"""How far rounding may push a box over the frame's edge."""


@dataclass(frozen=True)
class DetectionConfig:
    """What a detection network has to learn, and which boxes it tells."""

    num_classes: int = 1
    """Classes (K); the background is none of them."""
    video: bool = False
    """Detect in a key frame with the help of frames near it (STFT), not in every frame alone."""
    channels: int | None = None
    """Width of the pyramid and of the head; by default a third of the backbone's, as the released
    256 are of 768.
    """
    num_convs: int = 4
    """Convolutions in each tower of the head."""
    score_threshold: float = 0.05
    """Boxes that score less are not told."""
    nms_iou: float = 0.6
    """Of boxes of a class that overlap more than this only the best is told."""
    max_boxes: int = 100
    """Boxes told of a frame at most."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        for name in ("num_classes", "num_convs", "max_boxes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.channels is not None and self.channels < 4:
            raise ConfigError(f"channels is {self.channels}; give at least 4, or none.")
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 to 1.")


@dataclass
class Target:
    """The boxes of one frame, none where N is 0."""

    boxes: Tensor  # float32 [N, 4]: x1, y1, x2, y2 at the edges of pixels of the given frames
    classes: Tensor  # int64 [N]

    def to(self, *args: object, **kwargs: object) -> "Target":
        """On another device, as accelerate moves batches."""
        return Target(self.boxes.to(*args, **kwargs), self.classes.to(*args, **kwargs))  # type: ignore[call-overload]


@dataclass
class Found:
    """The boxes told of one frame, the surest first."""

    boxes: Tensor  # float32 [n, 4]: x1, y1, x2, y2 at the edges of pixels of the original frame
    scores: Tensor  # [n], falling
    classes: Tensor  # int64 [n]


@dataclass
class DetectionOutput:
    """A forward pass: scalars to minimise and to watch."""

    total: Tensor
    focal: Tensor
    giou: Tensor
    centerness: Tensor
    video_focal: Tensor
    """Of the video branch; 0 without it."""
    video_giou: Tensor
    num_boxes: Tensor
    """Boxes in the frames that were told to have any or none."""


class TokenDetection(nn.Module):
    """A backbone, a pyramid on its token grid, FCOS on that, and the video branch if wanted."""

    def __init__(self, backbone: TimeSformer, config: DetectionConfig) -> None:
        super().__init__()
        self.backbone = backbone
        channels = config.channels or max(backbone.width // 12 * 4, 16)
        self.pyramid = FeaturePyramid(backbone.width, channels)
        self.head = FcosHead(channels, config.num_classes, config.num_convs)
        branch = VideoBranch(channels, config.num_classes) if config.video else None
        self.video_branch = branch
        self.input_spec = backbone.input_spec
        patch = backbone.config.patch_pixels
        self.strides = tuple(patch * 2.0 ** (level - 1) for level in range(NUM_LEVELS))

    @property
    def num_classes(self) -> int:
        """Classes (K)."""
        return self.head.num_classes

    @property
    def patch_pixels(self) -> int:
        """The number that a frame's sides are multiples of."""
        return self.backbone.config.patch_pixels

    def forward(self, clip: Tensor, keys: Tensor | None) -> tuple[Dense, Refined | None, Points]:
        """Boxes at every point of clips [B, 3, T, H, W]: of all B T frames, or of the B key frames
        and a second time from the video branch.
        """
        grid = patch_tokens(self.backbone, clip)
        levels = self.head(self.pyramid(grid.flatten(0, 1)), self.strides)
        sizes = [(level.logits.shape[-2], level.logits.shape[-1]) for level in levels]
        points = make_points(sizes, self.strides, clip.device)
        if self.video_branch is None:
            return dense(levels), None, points
        assert keys is not None
        rows = torch.arange(len(keys), device=clip.device) * clip.shape[2] + keys.to(clip.device)
        told = dense(levels)
        of_keys = Dense(told.logits[rows], told.distances[rows], told.centerness[rows])
        return of_keys, self.video_branch(levels, keys), points


class DetectionTask(nn.Module):
    """Network and losses: one forward a micro-batch; `predict` gives boxes."""

    def __init__(self, network: TokenDetection, config: DetectionConfig) -> None:
        """Raises `ConfigError` for a network of other classes."""
        super().__init__()
        if network.num_classes != config.num_classes:
            raise ConfigError(
                f"The network tells {network.num_classes} classes, not {config.num_classes}; set "
                f"num_classes to {network.num_classes}, or start its head anew."
            )
        self.network = network
        self.config = config

    def forward(
        self,
        frames: Tensor,
        targets: Sequence[Sequence[Target | None]],
        keys: Tensor | None = None,
    ) -> DetectionOutput:
        """Loss of normalised `frames` [B, 3, T, H, W] against each clip's targets.

        One target for each of T frames; with `video` one for the key frame, whose place in each
        clip `keys` int64 [B] tells. `None` is a frame that nobody labelled: it is left out. Raises
        `ConfigError`, naming clip and frame, for boxes inverted or outside and for classes that are
        none.
        """
        self._check(frames, targets, keys)
        told, refined, points = self.network(self._padded(frames), keys)
        flat = [target for clip in targets for target in clip]
        labelled = [number for number, target in enumerate(flat) if target is not None]
        zero = _nothing(told, refined)
        if not labelled:
            return DetectionOutput(zero, zero, zero, zero, zero, zero, zero.detach())
        assigned = assign_all(points, [(t.boxes, t.classes) for t in flat if t is not None])
        some = torch.tensor(labelled, device=frames.device)
        losses: DetectionLosses = detection_losses(
            told.logits[some], told.distances[some], told.centerness[some], assigned
        )
        second = (zero, zero)
        if refined is not None:
            second = box_losses(refined.logits[some], refined.distances[some], assigned)
        total = losses.focal + losses.giou + losses.centerness + second[0] + second[1] + zero
        num_boxes = sum(len(target.boxes) for target in flat if target is not None)
        count = torch.tensor(float(num_boxes), device=frames.device)
        return DetectionOutput(total, losses.focal, losses.giou, losses.centerness, *second, count)

    @torch.no_grad()
    def predict(
        self,
        frames: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        keys: Tensor | None = None,
    ) -> list[list[Found]]:
        """Boxes of normalised frames [B, 3, T, H, W], in evaluation mode: T a clip, or its key's.

        In pixels of the original frames, whose `sizes` (H, W) are told clip by clip; by default the
        given frames' own. The surest first, clipped to the frame, after NMS. A box scores the root
        of its class probability times its centre-ness; with `video` class and box are the video
        branch's.
        """
        if self.config.video and keys is None:
            raise ConfigError(KEYS_MISSING)
        was_training = self.training
        self.eval()
        told, refined, points = self.network(self._padded(frames), keys)
        self.train(was_training)
        logits, distances = told.logits, told.distances
        if refined is not None:
            logits, distances = refined.logits, refined.distances
        scores = (logits.float().sigmoid() * told.centerness.float().sigmoid()[..., None]).sqrt()
        per_clip = len(scores) // frames.shape[0]
        given = (frames.shape[-2], frames.shape[-1])
        originals = sizes or [given] * frames.shape[0]
        found = [
            self._select(points, scores[number], distances[number], given, size)
            for number, size in enumerate(size for size in originals for _ in range(per_clip))
        ]
        return [found[start : start + per_clip] for start in range(0, len(found), per_clip)]

    def _select(
        self,
        points: Points,
        scores: Tensor,
        distances: Tensor,
        given: tuple[int, int],
        original: tuple[int, int],
    ) -> Found:
        """The best boxes of a frame from scores [L, K] and distances [L, 4]."""
        from torchvision.ops import batched_nms, clip_boxes_to_image

        config = self.config
        best, order = scores.flatten().sort(descending=True, stable=True)
        num = int((best > config.score_threshold).sum().clamp(max=10 * config.max_boxes))
        best, order = best[:num], order[:num]
        point, classes = order // scores.shape[1], order % scores.shape[1]
        at, edges = points.centers[point], distances[point].float()
        boxes = torch.cat([at - edges[:, :2], at + edges[:, 2:]], dim=1)
        boxes = clip_boxes_to_image(boxes, given)
        is_there = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # not wholly in the padding
        best, boxes, classes = best[is_there], boxes[is_there], classes[is_there]
        kept = batched_nms(boxes, best, classes, config.nms_iou)[: config.max_boxes]
        scale = boxes.new_tensor([original[1] / given[1], original[0] / given[0]]).repeat(2)
        return Found(boxes[kept] * scale, best[kept], classes[kept])

    def _padded(self, frames: Tensor) -> Tensor:
        """Sides that patches tile, with mean colour at the right and below: no box moves."""
        patch = self.network.patch_pixels
        height, width = frames.shape[-2:]
        return F.pad(frames, (0, -width % patch, 0, -height % patch))

    def _check(
        self,
        frames: Tensor,
        targets: Sequence[Sequence[Target | None]],
        keys: Tensor | None,
    ) -> None:
        if self.config.video and keys is None:
            raise ConfigError(KEYS_MISSING)
        clips, num_frames = frames.shape[0], frames.shape[2]
        wanted = 1 if self.config.video else num_frames
        if len(targets) != clips or any(len(of_clip) != wanted for of_clip in targets):
            raise ConfigError(
                f"Frames {list(frames.shape)} need targets for {clips} clips of {wanted} frame(s), "
                f"but these are for {[len(of_clip) for of_clip in targets]}."
            )
        height, width = frames.shape[-2:]
        for clip, of_clip in enumerate(targets):
            for frame, target in enumerate(of_clip):
                if target is not None:
                    where = f"Clip {clip} of the batch, frame {frame}"
                    check_boxes(where, target, (height, width), self.config.num_classes)


KEYS_MISSING = "Detection in video needs `keys`, the place of the key frame in each clip."


def check_boxes(where: str, target: Target, size: tuple[int, int], num_classes: int) -> None:
    """Raise `ConfigError` for boxes that are inverted or outside (H, W), or of no class."""
    boxes, classes = target.boxes, target.classes
    if boxes.shape != (len(classes), 4) or classes.dtype != torch.int64:
        raise ConfigError(
            f"{where}: boxes {list(boxes.shape)} with {len(classes)} classes; give [N, 4] and N "
            "whole numbers."
        )
    limit = boxes.new_tensor([size[1], size[0]]) + TOLERANCE_PIXELS
    is_fine = (
        (boxes[:, 2:] > boxes[:, :2])
        & (boxes[:, :2] >= -TOLERANCE_PIXELS)
        & (boxes[:, 2:] <= limit)
    ).all(dim=1)
    is_known = (classes >= 0) & (classes < num_classes)
    if bool((is_fine & is_known).all()):
        return
    number = int((~(is_fine & is_known)).nonzero()[0])
    if not is_known[number]:
        raise ConfigError(
            f"{where}: a box has the class {int(classes[number])}, but there are {num_classes}, 0 "
            f"to {num_classes - 1}."
        )
    corners = ", ".join(f"{value:g}" for value in boxes[number].tolist())
    raise ConfigError(
        f"{where}: the box x1, y1, x2, y2 = {corners} is inverted, or outside the frame of "
        f"{size[1]}x{size[0]} pixels; x1 < x2 and y1 < y2 within it."
    )


def build_detection(backbone: TimeSformer, config: DetectionConfig) -> DetectionTask:
    """The task around what `endofm.load` gives of a backbone."""
    return DetectionTask(TokenDetection(backbone, config), config)


def _nothing(told: Dense, refined: Refined | None) -> Tensor:
    """A zero that depends on every output, as data-parallel training needs where nothing counts."""
    outputs = [told.logits, told.distances, told.centerness]
    if refined is not None:
        outputs += [refined.logits, refined.distances]
    return torch.stack([0 * output.float().sum() for output in outputs]).sum()
