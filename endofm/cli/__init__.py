"""The `endofm` command: one file a sub-command, each thin over the library."""

import sys
from typing import Annotated

import tyro
from tyro.conf import subcommand

from endofm.cli.bench import Bench
from endofm.cli.convert import Convert
from endofm.cli.corpus import Corpus
from endofm.cli.doctor import Doctor
from endofm.cli.embed import Embed
from endofm.cli.export import Export
from endofm.cli.look import Look
from endofm.cli.manifest import Manifest
from endofm.cli.models import Check, Models
from endofm.cli.push import Push
from endofm.cli.report import Report
from endofm.cli.synthetic import Synthetic
from endofm.cli.synthetic_ct import SyntheticCt
from endofm.cli.synthetic_motion import SyntheticMotion
from endofm.program import told_faults

Command = (
    Annotated[Manifest, subcommand("manifest")]
    | Annotated[Synthetic, subcommand("synthetic")]
    | Annotated[SyntheticCt, subcommand("synthetic-ct")]
    | Annotated[SyntheticMotion, subcommand("synthetic-motion")]
    | Annotated[Corpus, subcommand("corpus")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Models, subcommand("models")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Push, subcommand("push")]
    | Annotated[Embed, subcommand("embed")]
    | Annotated[Look, subcommand("look")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Bench, subcommand("bench")]
)
DESCRIPTION = "Corpora, models and reports of endofm; `python -m pretrain` trains."


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a fault of the input or the disk is one sentence and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    with told_faults():
        # Options check their values as they are made.
        command: Command = tyro.cli(Command, args=words, prog="endofm", description=DESCRIPTION)
        command.run()
