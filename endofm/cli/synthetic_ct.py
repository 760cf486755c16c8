"""`endofm synthetic-ct`: a corpus of synthetic chest CT."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.talk import progress, say
from endofm.synthetic.ct import CtSpec, write_volumes


@dataclass(frozen=True)
class SyntheticCt:
    """Make a corpus of synthetic chest CT with labelled lesions; goes on where it was."""

    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write: NIfTI volumes and manifest.csv."""
    spec: OmitArgPrefixes[CtSpec] = CtSpec()

    def run(self) -> None:
        """Write the corpus, showing how far it is."""
        with progress("volumes") as show:
            total = self.spec.num_volumes
            manifest = write_volumes(self.out, self.spec, lambda done: show(done, total))
        say(f"{total} volumes are in {self.out}; their manifest is {manifest}.")
