"""`endofm corpus`: from original downloads to clips that can be trusted; one file a sub-command."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import tyro
from tyro.conf import subcommand

from endofm.cli.corpus.check import Check
from endofm.cli.corpus.leaks import Leaks
from endofm.cli.corpus.merge import Merge
from endofm.cli.corpus.mix import Mix
from endofm.cli.corpus.pack import Pack
from endofm.cli.corpus.prepare import Prepare
from endofm.cli.corpus.report import Report
from endofm.cli.corpus.speed import Speed

Action: TypeAlias = (
    Annotated[Prepare, subcommand("prepare")]
    | Annotated[Merge, subcommand("merge")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Leaks, subcommand("leaks")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Mix, subcommand("mix")]
    | Annotated[Pack, subcommand("pack")]
    | Annotated[Speed, subcommand("speed")]
)


@dataclass(frozen=True)
class Corpus:
    """Prepare a source dataset as clips, and work on what was prepared."""

    action: Annotated[Action, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Run the sub-command."""
        self.action.run()
