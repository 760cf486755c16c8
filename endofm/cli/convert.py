"""`endofm convert`: a model folder from published weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.talk import say
from endofm.hub.folder import refuse_taken
from endofm.models.loading.sizes import LoadOptions
from endofm.models.loading.weights import Which


@dataclass(frozen=True)
class Convert:
    """Make a model folder from a weight file, timm's image ViT, or a model on the Hub."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A weight file of any known layout, timm:NAME, owner/name on the Hub, or a model folder."""
    dest: Annotated[Positional[Path], tyro.conf.arg(metavar="DEST")]
    """The model folder to write."""
    which: Which = "teacher"
    """The network to take, from files that hold both."""
    revision: str | None = None
    """Branch, tag or commit, for a name on the Hub."""
    options: Annotated[LoadOptions, tyro.conf.arg(name="")] = field(default_factory=LoadOptions)

    def run(self) -> None:
        """Load exactly, write the folder, say what was left out."""
        refuse_taken(self.dest)
        found = hub.find(self.source, self.which, self.revision, self.options)
        model = found.model
        hub.save(self.dest, model, model.input_spec, found.provenance)
        for why in sorted({*found.report.left_out.values()}):
            say(f"left out: {why}")
        for how in sorted({*found.report.started.values()}):
            say(f"not in the source: {how}")
        say(f"{self.dest} is written: {found.provenance['kind']}.")
