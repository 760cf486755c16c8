"""`python -m pretrain`: read the recipe, then explain, draw views, or train."""

import os
import sys

import torch
from accelerate.state import PartialState
from rich.console import Console
from rich.text import Text

from endofm import program
from endofm.data.pretraining.dataset import load_corpus
from endofm.report.views import draw_views

from .config import Command
from .plan import check_files, check_memory, check_start, explain, make_plan
from .train import train


def read_command(arguments: list[str]) -> Command:
    """The command line, and the recipe that it names."""
    return program.read_command(Command, "python -m pretrain", arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; a fault of the input is one sentence and exit status 1."""
    with program.told_faults():
        act(read_command(sys.argv[1:] if arguments is None else arguments))


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
        check_start(config)
        check_memory(config, device)
    if command.show_views is not None and is_main:
        draw_views(command.show_views, corpus, config.data, config.views, config.run.seed)
        console.print(Text(f"{command.show_views} shows the views of the run's first clips."))


if __name__ == "__main__":
    main()
