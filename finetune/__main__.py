"""`python -m finetune`: read the recipe, then explain or train, and show what the test found."""

import os
import sys

from accelerate.state import PartialState
from rich.console import Console
from rich.text import Text

from endofm import program

from .config import Command
from .plan import explain, gather_material
from .results import read_json, show
from .train import finetune


def read_command(arguments: list[str]) -> Command:
    """The command line, and the recipe that it names."""
    return program.read_command(Command, "python -m finetune", arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    with program.told_faults():
        act(read_command(sys.argv[1:] if arguments is None else arguments))


def act(command: Command) -> None:
    """Do what the command asks."""
    config, console = command.recipe, Console(highlight=False, soft_wrap=True)
    if command.explain:
        if os.environ.get("RANK", "0") == "0":
            console.print(Text(explain(config, gather_material(config))))
        return
    folder = finetune(config)
    if PartialState().is_main_process:
        summary = read_json(folder / "metrics.json")
        show(console, summary)
        if summary["not_scored"]:
            console.print(
                Text(f"{summary['not_scored']} rows could not be read; no figure has them.")
            )
        console.print(Text(f"The result is in {folder}."))


if __name__ == "__main__":
    main()
