"""Spatial-temporal feature transformation: a key frame's boxes, helped by frames near it.

Wu et al., Multi-frame Collaboration for Effective Endoscopic Video Polyp Detection via
Spatial-Temporal Feature Transformation (MICCAI 2021). Two steps on each tower of each level:

1. Alignment. Deformable convolutions whose offsets follow from the predicted boxes: for the key
   frame where its box's edges lie from the point, for a reference how they differ from the key's.
2. Attention over the references, for each channel alone: how much a channel of a reference counts
   is the softmax over references of its product with the same channel of the key frame. What they
   give is added to the key frame.

Ours: the layer from edges to offsets learns here (in the released code no gradient reaches it); the
second box is the first one times the exponential of what the branch says, and both boxes learn from
the same points.

Shapes: B clips, T frames, C channels, K classes, L points, h w cells of a level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from endofm.heads.detection import MAX_LOG_DISTANCE, LevelMaps, classifier, flatten

OFFSET_GROUPS = 4


@dataclass
class Refined:
    """The second classes and boxes of the key frames; the first centre-ness stays."""

    logits: Tensor  # [B, L, K]
    distances: Tensor  # [B, L, 4], in pixels


class VideoBranch(nn.Module):
    """Second classes and boxes of each clip's key frame, with the clip's other frames' help."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.align_class = Alignment(channels)
        self.align_box = Alignment(channels)
        self.classify = classifier(channels, num_classes)
        self.regress = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.normal_(self.regress.weight, std=0.01)
        assert self.regress.bias is not None
        nn.init.zeros_(self.regress.bias)

    def forward(self, levels: Sequence[LevelMaps], keys: Tensor) -> Refined:
        """From the maps of all B T frames; `keys` int64 [B] is each key frame's place in its clip.

        A clip of one frame is its own reference.
        """
        logits, distances = [], []
        for level in levels:
            of_class, of_box, boxes = (
                key_first(maps, keys)
                for maps in (level.class_tower, level.box_tower, level.distances.detach())
            )
            edges = _edges(boxes / level.stride)
            of_class = gather_channels(self.align_class(of_class, edges))
            of_box = gather_channels(self.align_box(of_box, edges))
            change = self.regress(of_box).float().clamp(-MAX_LOG_DISTANCE, MAX_LOG_DISTANCE)
            logits.append(self.classify(of_class))
            distances.append(boxes[:, 0] * change.exp())
        return Refined(flatten(logits), flatten(distances))


class Alignment(nn.Module):
    """A deformable convolution that looks where the boxes say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = OFFSET_GROUPS if channels % OFFSET_GROUPS == 0 else 1
        self.offsets = nn.Conv2d(4, groups * 2 * 9, kernel_size=1, bias=False)
        nn.init.normal_(self.offsets.weight, std=0.01)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, maps: Tensor, edges: Tensor) -> Tensor:
        """[B, T, C, h, w] with edges [B, T, 4, h, w], in cells -> [B, T, C, h, w]."""
        from torchvision.ops import deform_conv2d

        offsets = self.offsets(edges.flatten(0, 1).to(self.offsets.weight.dtype))
        # The operator has no reduced precision.
        with torch.autocast(maps.device.type, enabled=False):
            aligned: Tensor = deform_conv2d(
                maps.flatten(0, 1).float(), offsets.float(), self.weight.float(), padding=1
            )
        return rearrange(aligned.relu(), "(b t) c h w -> b t c h w", t=maps.shape[1])


def key_first(maps: Tensor, keys: Tensor) -> Tensor:  # [B T, C, h, w] -> [B, T, C, h, w]
    """Each clip's key frame first, its other frames behind it in their order."""
    clips = rearrange(maps, "(b t) c h w -> b t c h w", b=len(keys))
    places = torch.arange(clips.shape[1], device=maps.device).expand(len(keys), -1)
    order = (places != keys[:, None].to(maps.device)).int().argsort(dim=1, stable=True)
    return torch.gather(clips, 1, order[:, :, None, None, None].expand_as(clips))


def gather_channels(maps: Tensor) -> Tensor:  # [B, T, C, h, w] -> [B, C, h, w]
    """The first frame plus what its channels gather from the same channels of the others."""
    flat = rearrange(maps, "b t c h w -> b c t (h w)")
    key, others = flat[:, :, :1], flat[:, :, 1:]
    if not others.shape[2]:
        others = key
    scores = key @ others.transpose(-2, -1) / math.sqrt(flat.shape[-1])  # [B, C, 1, T - 1]
    gathered = key + scores.softmax(dim=-1) @ others
    return rearrange(gathered, "b c 1 (h w) -> b c h w", h=maps.shape[-2])


def _edges(boxes: Tensor) -> Tensor:
    """Distances [B, T, 4, h, w] in cells -> signed places of the edges from the point (x1, y1, x2,
    y2), kept on the map; of the references, the key frame's less theirs.
    """
    height, width = boxes.shape[-2:]
    rows = torch.arange(height, device=boxes.device, dtype=boxes.dtype)[:, None]
    columns = torch.arange(width, device=boxes.device, dtype=boxes.dtype)[None, :]
    left, top, right, bottom = boxes.unbind(dim=2)
    edges = torch.stack(
        [
            (columns - left).clamp(0, width - 1) - columns,
            (rows - top).clamp(0, height - 1) - rows,
            (columns + right).clamp(0, width - 1) - columns,
            (rows + bottom).clamp(0, height - 1) - rows,
        ],
        dim=2,
    )
    return torch.cat([edges[:, :1], edges[:, :1] - edges[:, 1:]], dim=1)
