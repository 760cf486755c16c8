"""What the programs share: a command line with a recipe in it, and faults as one sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.text import Text

from endofm.config import parse_config
from endofm.errors import EndofmError

Command = TypeVar("Command")


def read_command(kind: type[Command], prog: str, arguments: Sequence[str]) -> Command:
    """The command line, with the recipe that `--config` names read before the other flags."""
    recipe = None
    for number, word in enumerate(arguments):
        if word == "--config" and number + 1 < len(arguments):
            recipe = Path(arguments[number + 1])
        elif word.startswith("--config="):
            recipe = Path(word.removeprefix("--config="))
    return parse_config(kind, arguments, recipe, prog, kind.__doc__ or "")


@contextmanager
def told_faults() -> Iterator[None]:
    """A fault of the input, or too little memory, is one sentence and exit status 1."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        yield
    except EndofmError as error:
        console.print(Text.assemble(("error:", "red"), f" {error}"))
        raise SystemExit(1) from error
    except torch.OutOfMemoryError as error:
        console.print(
            "[red]error:[/] The device ran out of memory; lower optim.batch_size and raise "
            "optim.accumulate by as much, or set model.gradient_checkpointing."
        )
        raise SystemExit(1) from error
