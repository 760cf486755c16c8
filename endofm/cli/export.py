"""`endofm export`: a model as one file that runs without endofm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

import endofm
from endofm.cli.talk import say
from endofm.hub.export import TOLERANCE, export, refuse


@dataclass(frozen=True)
class Export:
    """Write a model as ONNX or torch.export, compared with the model before it gets its name."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Whatever endofm.load takes: a model folder, say."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT.onnx|OUT.pt2")]
    """The file to write; its ending says which kind."""
    num_frames: int | None = None
    """Frames of a clip, fixed in the file; by default the model's own."""
    pixels: int | None = None
    """Height and width of a frame, fixed in the file; by default the model's own."""

    def run(self) -> None:
        """Export, and say what was written and how near it is."""
        refuse(self.out)
        done = export(endofm.load(self.model), self.out, self.num_frames, self.pixels)
        frames, height, width = done.frames
        say(
            f"{done.file} ({done.file.stat().st_size / 2**20:.1f} MiB) takes frames uint8 [batch, "
            f"{frames}, {height}, {width}, 3] and gives feature and tokens; relative difference "
            f"{done.difference:.1e} from the model (at most {TOLERANCE:.0e})."
        )
