"""`endofm corpus pack`: a prepared corpus as WebDataset shards."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import progress, say
from endofm.data.corpus.pack import pack


@dataclass(frozen=True)
class Pack:
    """Write the clips of a prepared corpus into WebDataset tars that training reads as they are."""

    manifest: Annotated[Positional[Path], tyro.conf.arg(metavar="MANIFEST.csv")]
    """The manifest of a prepared corpus."""
    target: Annotated[Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """Folder to write: manifest.csv and shards."""
    shard_megabytes: int = 512
    """Size of a tar, about."""
    address: str = ""
    """Where the tars will lie once you have copied them (s3://bucket/corpus/shards, ...)."""

    def run(self) -> None:
        """Pack, and say what to do next."""
        with progress("shards") as show:
            manifest = pack(self.manifest, self.target, self.shard_megabytes, self.address, show)
        say(f"{manifest} names the clips in the shards; train with --data.manifests {manifest}.")
        if self.address:
            tars = shlex.quote(str(self.target / "shards")) + "/*.tar"
            say(f"Copy {tars} to {self.address}; here only index and manifest need to stay.")
