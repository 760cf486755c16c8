"""`python -m pretrain`: read the recipe, then explain, draw views, or train."""

import os
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from rich.console import Console
from rich.text import Text

from endofm.config import parse_config
from endofm.data.dataset import load_corpus
from endofm.errors import EndofmError
from endofm.report.views import draw_views
from pretrain.config import Command
from pretrain.plan import check_files, check_memory, explain, make_plan
from pretrain.train import train


def read_command(arguments: list[str]) -> Command:
    """The command line, with the recipe that `--config` names read before the other flags."""
    recipe = None
    for number, word in enumerate(arguments):
        if word == "--config" and number + 1 < len(arguments):
            recipe = Path(arguments[number + 1])
        elif word.startswith("--config="):
            recipe = Path(word.removeprefix("--config="))
    return parse_config(Command, arguments, recipe, "python -m pretrain", Command.__doc__ or "")


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        command = read_command(sys.argv[1:] if arguments is None else arguments)
        act(command)
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
    if not command.explain and command.show_views is None:
        folder = train(config)
        if PartialState().is_main_process:
            console.print(Text(f'The model is in {folder}; endofm.load("{folder}") gives it back.'))
        return
    corpus = load_corpus(config.data)
    missing = check_files(config, corpus)
    is_main = os.environ.get("RANK", "0") == "0"
    if command.explain and is_main:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plan = make_plan(config, corpus, rank=0, world=int(os.environ.get("WORLD_SIZE", "1")))
        console.print(Text(explain(config, corpus, plan, device)))
        if missing:
            console.print(f"missing          {missing} clips have no file, or one of no bytes")
        check_memory(config, device)
    if command.show_views is not None and is_main:
        draw_views(command.show_views, corpus, config.data, config.views, config.run.seed)
        console.print(Text(f"{command.show_views} shows the views of the run's first clips."))


if __name__ == "__main__":
    main()
