"""`endofm corpus merge`: the shards of a corpus, verified and put together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import progress, say
from endofm.data.corpus.merge import merge


@dataclass(frozen=True)
class Merge:
    """Verify every file of a corpus that was prepared in shards, and write its manifest."""

    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder that all shards were given as --out."""

    def run(self) -> None:
        """Compare checksums, write the tables."""
        with progress("files") as show:
            manifest, left_out = merge(self.out, show)
        for sentence in left_out:
            say(f"left out: {sentence}")
        say(f"All shards are whole; the manifest is {manifest}.")
