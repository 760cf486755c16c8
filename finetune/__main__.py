"""`python -m finetune`: read the recipe, then explain or train, and show what the test found."""

import os
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from rich.console import Console
from rich.text import Text

from endofm.config import parse_config
from endofm.errors import EndofmError
from finetune.config import Command
from finetune.plan import explain, gather_material
from finetune.results import read_json, show
from finetune.train import finetune


def read_command(arguments: list[str]) -> Command:
    """The command line, with the recipe that `--config` names read before the other flags."""
    recipe = None
    for number, word in enumerate(arguments):
        if word == "--config" and number + 1 < len(arguments):
            recipe = Path(arguments[number + 1])
        elif word.startswith("--config="):
            recipe = Path(word.removeprefix("--config="))
    return parse_config(Command, arguments, recipe, "python -m finetune", Command.__doc__ or "")


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        act(read_command(sys.argv[1:] if arguments is None else arguments))
    except EndofmError as error:
        console.print(Text.assemble(("error:", "red"), f" {error}"))
        raise SystemExit(1) from error
    except torch.OutOfMemoryError as error:
        console.print(
            "[red]error:[/] The device ran out of memory; lower optim.batch_size and raise "
            "optim.accumulate by as much, or set model.gradient_checkpointing."
        )
        raise SystemExit(1) from error


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
