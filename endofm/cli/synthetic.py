"""`endofm synthetic`: a corpus of synthetic endoscopy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.talk import progress, say
from endofm.synthetic import CorpusSpec, write_corpus


@dataclass(frozen=True)
class Synthetic:
    """Make a corpus of synthetic endoscopy with labels, masks and boxes; goes on where it was."""

    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write: videos, masks, boxes.csv and manifest.csv."""
    spec: OmitArgPrefixes[CorpusSpec] = CorpusSpec()

    def run(self) -> None:
        """Write the corpus, showing how far it is."""
        with progress("clips") as show:
            total = self.spec.num_clips
            manifest = write_corpus(self.out, self.spec, lambda done: show(done, total))
        say(f"{total} clips are in {self.out}; their manifest is {manifest}.")
