"""`endofm corpus report`: what is in a corpus, as one HTML page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.corpus.scan import Scan
from endofm.cli.talk import say
from endofm.data.checks.fingerprint import SIDE
from endofm.errors import ConfigError
from endofm.report.corpus import Source, card_of, corpus_page

NO_PICTURES = np.zeros((0, SIDE, SIDE), np.uint8)
"""In place of a clip's: those of all clips would fill the memory."""


@dataclass(frozen=True)
class Report:
    """Write one page about a corpus: counts, hours, sizes, terms, labels, splits, warnings, frames.

    The terms come from the card of the dataset that `endofm corpus prepare` made a manifest from.
    """

    manifests: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MANIFEST...")]
    """Manifests of the corpus."""
    out: Path = Path("corpus.html")
    """The page to write; it needs no other file."""
    cards: Path | None = None
    """Folder of data cards; by default those of endofm."""
    scan: OmitArgPrefixes[Scan] = Scan()

    def run(self) -> None:
        """Decode what was not decoded yet, write the page, say where it is."""
        if not self.manifests:
            raise ConfigError("There is nothing to report on; give at least one manifest.")
        sources = []
        for manifest, segments in self.scan.read(self.manifests):
            card = card_of(manifest, self.cards)
            broken = self.scan.decode(segments)
            store = self.scan.store
            told = [
                None if number in broken else replace(store.make(segment), thumbs=NO_PICTURES)
                for number, segment in enumerate(segments)
            ]
            sources.append(Source(manifest, segments, told, card))
        say(f"{corpus_page(self.out, sources)} shows the corpus.")
