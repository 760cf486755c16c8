"""`endofm report`: the page of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import say
from endofm.report.page import run_page


@dataclass(frozen=True)
class Report:
    """Write report.html into the folder of a pretraining run."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN_FOLDER")]
    """The --run.out of a run."""

    def run(self) -> None:
        """Write the page and say where it is."""
        say(f"{run_page(self.folder)} shows the run.")
