"""Clips of different shapes, side by side in one table of tokens.

Linear layers and norms see tokens, not clips: all clips of a step pass them together, in large
matrix products and without padding. Only attention takes the clips apart. A table has one row a
token: first the class tokens of all clips, then the patches, clip by clip.

Shapes: S class tokens (one a clip, or one a frame), T frames, N patches of a class token, R rows,
D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class Extent(NamedTuple):
    """What a batch of equal clips has in a table."""

    clips: int
    num_frames: int
    places: int
    """Patches of a frame."""
    frames_apart: bool = False
    """Whether every frame has a class token of its own."""

    @property
    def class_rows(self) -> int:
        """Class tokens."""
        return self.clips * self.num_frames if self.frames_apart else self.clips

    @property
    def patch_rows(self) -> int:
        """Patches of all clips."""
        return self.clips * self.num_frames * self.places


Extents = Sequence[Extent]


def pack(of_class: Sequence[Tensor], of_patches: Sequence[Tensor]) -> Tensor:
    """Rows of every batch of clips -> one table: [S, D] each and [S N, D] each -> [R, D]."""
    return torch.cat([*of_class, *of_patches])


def halves(table: Tensor, extents: Extents) -> tuple[Tensor, Tensor]:
    """The rows of all class tokens, and those of all patches."""
    num_class = sum(extent.class_rows for extent in extents)
    of_class, of_patches = torch.split(table, [num_class, table.shape[0] - num_class])
    return of_class, of_patches


def parts(table: Tensor, extents: Extents) -> list[tuple[Tensor, Tensor]]:
    """For every batch of clips its class rows and its patch rows."""
    sizes = [extent.class_rows for extent in extents] + [extent.patch_rows for extent in extents]
    pieces = torch.split(table, sizes)
    return list(zip(pieces[: len(extents)], pieces[len(extents) :], strict=True))


def as_tokens(table: Tensor, extents: Extents) -> list[Tensor]:
    """Every batch of clips by itself: [S, 1 + N, D], its class token first."""
    return [
        torch.cat(
            [of_class[:, None], rearrange(of_patches, "(s n) d -> s n d", s=of_class.shape[0])], 1
        )
        for of_class, of_patches in parts(table, extents)
    ]


def from_tokens(tokens: Sequence[Tensor]) -> Tensor:
    """The table again: the inverse of `as_tokens`."""
    pairs = [torch.split(one, [1, one.shape[1] - 1], dim=1) for one in tokens]
    return pack([c.flatten(0, 1) for c, _ in pairs], [p.flatten(0, 1) for _, p in pairs])


def in_packs(clips: Sequence[Tensor]) -> list[list[Tensor]]:
    """Clips in their order, as many together as are no larger than the largest alone."""
    largest = max(clip.numel() for clip in clips)
    packs: list[list[Tensor]] = [[]]
    for clip in clips:
        if packs[-1] and sum(one.numel() for one in packs[-1]) + clip.numel() > largest:
            packs.append([])
        packs[-1].append(clip)
    return packs
