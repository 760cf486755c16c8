"""`endofm synthetic-motion`: a corpus of look-alikes that only motion tells apart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.talk import progress, say
from endofm.synthetic.motion import MotionSpec, write_motions


@dataclass(frozen=True)
class SyntheticMotion:
    """Make a corpus of look-alikes that differ in motion only; goes on where it was."""

    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write: videos as pictures, and manifest.csv."""
    spec: OmitArgPrefixes[MotionSpec] = MotionSpec()

    def run(self) -> None:
        """Write the corpus, showing how far it is."""
        with progress("videos") as show:
            total = self.spec.num_videos
            manifest = write_motions(self.out, self.spec, lambda done: show(done, total))
        say(f"{total} videos are in {self.out}; their manifest is {manifest}.")
