"""Does a model find another piece of the same sequence? Its nearest neighbours, without labels.

Every clip of a manifest is cut into pieces; a piece is found if its nearest other piece comes from
the same clip. Beside the models stand the same networks untrained, plain colour statistics, and
chance.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from endofm import hub
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.errors import ConfigError, ManifestError
from endofm.metrics.representation import color_statistics, retrieval_at_1, retrieval_chance
from endofm.program import told_faults
from endofm.report.page import untrained_twin
from endofm.tasks.embedding.features import embed_clips, load_clips


@dataclass(frozen=True)
class Retrieval:
    """Share of pieces whose nearest other piece comes from the same clip."""

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Model folders of one recipe, one a seed."""
    manifest: Path
    """Clips to cut into pieces and to find."""
    root: Path | None = None
    """Folder that the manifest's paths start from; by default its own."""
    pieces: int = 3
    """Pieces of every clip, end to end."""
    frames: int = 2
    """Frames taken from a piece."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if not self.models:
            raise ConfigError("No model is given; name at least one model folder.")
        if self.pieces < 2:
            raise ConfigError(
                f"--pieces is {self.pieces}; a piece is found by another one, so give 2 or more."
            )
        if self.frames < 1:
            raise ConfigError(f"--frames is {self.frames}; give 1 or more.")


def cut(segment: Segment, pieces: int) -> list[Segment]:
    """A clip end to end in `pieces` of nearly one length; raises `ManifestError` if too short."""
    length = segment.num_frames
    if length is None or length < pieces:
        raise ManifestError(
            f"{segment.name} has {length or 'no stated number of'} frames and can't be cut into "
            f"{pieces} pieces; take fewer pieces, or make the manifest with `endofm manifest`."
        )
    edges = [segment.start_frame + length * k // pieces for k in range(pieces + 1)]
    return [
        replace(segment, start_frame=start, stop_frame=stop, group=segment.name)
        for start, stop in pairwise(edges)
    ]


def retrieval_scores(command: Retrieval) -> dict[str, list[float]]:
    """Scores of every kind of features, one a model."""
    segments = read_manifest(command.manifest, command.root)
    parts = [piece for segment in segments for piece in cut(segment, command.pieces)]
    groups = np.array([piece.group for piece in parts])
    scores: dict[str, list[float]] = {"pretrained": [], "untrained": []}
    for seed, folder in enumerate(command.models):
        model = hub.load(folder)
        clips = load_clips(parts, command.frames, model.input_spec.pixels)
        for kind, network in (("pretrained", model), ("untrained", untrained_twin(model, seed))):
            scores[kind].append(retrieval_at_1(embed_clips(network, clips), groups))
        scores["color statistics"] = [retrieval_at_1(color_statistics(clips), groups)]
    scores["chance"] = [retrieval_chance(groups)]
    return scores


def main() -> None:
    """Print the table; a fault is one sentence and exit status 1."""
    with told_faults():
        command = tyro.cli(Retrieval, prog="python -m pretrain.retrieval")
        scores = retrieval_scores(command)
    table = Table("features", "mean", "lowest", "highest", title="Found at first place, percent")
    for kind, values in scores.items():
        cells = (np.mean(values), min(values), max(values))
        table.add_row(kind, *(f"{100 * cell:.1f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
