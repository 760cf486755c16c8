"""Masks of a whole video, however long: clips slide over it and their overlaps are averaged."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from endofm.errors import ConfigError, VideoError
from endofm.tasks.segmentation.model import SegmentationTask

Frame = npt.NDArray[np.uint8]


@dataclass
class Waiting:
    """A frame whose mask is not settled yet."""

    number: int
    size: tuple[int, int]
    probabilities: Tensor | None = None  # [K, h, w], a sum over the clips that have seen it

    def add(self, probabilities: Tensor) -> None:
        """Another clip's opinion."""
        known = self.probabilities
        self.probabilities = probabilities if known is None else known + probabilities

    def mask(self) -> Frame:
        """The class of every pixel, uint8 [H, W], at the frame's own size."""
        assert self.probabilities is not None
        scores = F.interpolate(self.probabilities[None], size=self.size, mode="bilinear")
        mask: Frame = scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        return mask


def predict_video(
    task: SegmentationTask,
    frames: Iterable[Frame],
    *,
    num_frames: int | None = None,
    step: int | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """The mask uint8 [H, W] of each of `frames`, RGB uint8 [H, W, 3], in order, at its own size.

    Clips of `num_frames` (by default what the model is made for) begin every `step` frames (by
    default half a clip), the last one ends with the video, and a shorter video is one clip.
    Probabilities of clips that share a frame are averaged. A mask comes as soon as no other clip
    will see its frame, so memory doesn't grow with the video. The network sees frames at `size`
    (height, width), by default the square its weights are made for.

    Evaluation mode is set at the start and left so. Raises `ConfigError` for a step that leaves
    frames out, `VideoError` for a frame that is none.
    """
    spec = task.network.input_spec
    num_frames = spec.num_frames if num_frames is None else num_frames
    step = max(num_frames // 2, 1) if step is None else step
    if not 1 <= step <= num_frames:
        raise ConfigError(
            f"Clips of {num_frames} frames every {step} frames leave frames out or don't move on; "
            f"give a step from 1 to {num_frames}."
        )
    return _slide(task.eval(), frames, num_frames, step, size or (spec.pixels, spec.pixels))


def _slide(
    task: SegmentationTask,
    frames: Iterable[Frame],
    num_frames: int,
    step: int,
    size: tuple[int, int],
) -> Iterator[Frame]:
    recent: deque[Tensor] = deque(maxlen=num_frames)
    waiting: deque[Waiting] = deque()
    count = seen = 0  # frames read, and those that a clip has reached
    for number, frame in enumerate(frames):
        recent.append(_shrink(frame, number, size))
        waiting.append(Waiting(number, (frame.shape[0], frame.shape[1])))
        count = number + 1
        start = count - num_frames
        if start >= 0 and start % step == 0:
            _look(task, recent, waiting, start)
            seen = count
            while waiting and waiting[0].number < start + step:
                yield waiting.popleft().mask()
    if seen < count:
        _look(task, recent, waiting, count - len(recent))
    while waiting:
        yield waiting.popleft().mask()


@torch.no_grad()
def _look(
    task: SegmentationTask, clip: Iterable[Tensor], waiting: Iterable[Waiting], start: int
) -> None:
    """Show the network a clip that begins at frame `start`, and note what it says."""
    device = next(task.parameters()).device
    pixels = torch.stack(list(clip)).to(device)
    video = task.network.input_spec.normalize(pixels)
    scores = task.logits(video, (video.shape[-2], video.shape[-1]))[0].float()
    probabilities = scores.softmax(dim=1)  # [T, K, h, w]
    for frame in waiting:
        if frame.number >= start:
            frame.add(probabilities[frame.number - start])


def _shrink(frame: Frame, number: int, size: tuple[int, int]) -> Tensor:
    """A frame at the network's size: uint8 [h, w, 3]."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise VideoError(
            f"Frame {number} is {frame.dtype} {list(frame.shape)}; frames are RGB uint8 [H, W, 3]."
        )
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    if planes.shape[-2:] != size:
        planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0)
