"""What the programs share: a command line with a recipe in it, and faults as one sentence."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.text import Text

from endofm.config import parse_config
from endofm.errors import EndofmError
from endofm.processes import is_first_to_say

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
    """A fault of the input, too little memory, or a full disk is one sentence and exit status 1."""
    try:
        yield
    except (EndofmError, torch.OutOfMemoryError, OSError) as error:
        sentence = _sentence(error)
        if not sentence:
            raise
        if is_first_to_say(sentence):
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(Text.assemble(("error:", "red"), f" {sentence}"))
        raise SystemExit(1) from error


def _sentence(error: EndofmError | torch.OutOfMemoryError | OSError) -> str:
    """What a user is told; nothing for an error of the system that is none of theirs."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "The device ran out of memory; lower optim.batch_size and raise optim.accumulate by as "
            "much, or set model.gradient_checkpointing."
        )
    if isinstance(error, EndofmError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = "" if error.filename is None else f" ({error.filename})"
        return f"The disk is full{where}; make room, and the same command goes on."
    return ""
