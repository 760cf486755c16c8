"""Features of clips from a frozen model, one vector a segment."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from endofm.data.manifests.manifest import Segment
from endofm.data.videos.clips import center_clip
from endofm.models.timesformer import TimeSformer

Array = npt.NDArray[np.float32]


def load_clips(segments: Sequence[Segment], num_frames: int, pixels: int) -> npt.NDArray[np.uint8]:
    """Every segment's centre clip: uint8 [S, num_frames, pixels, pixels, 3]."""
    return np.stack([center_clip(segment, num_frames, pixels) for segment in segments])


@torch.no_grad()
def embed_clips(model: TimeSformer, clips: npt.NDArray[np.uint8], batch_size: int = 16) -> Array:
    """Features [S, D] of clips uint8 [S, T, H, W, 3], by `model` as it stands (evaluation mode)."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = []
    for first in range(0, len(clips), batch_size):
        frames = torch.from_numpy(clips[first : first + batch_size]).to(device)
        rows.append(model(model.input_spec.normalize(frames)).float().cpu().numpy())
    model.train(was_training)
    features: Array = np.concatenate(rows)
    return features
