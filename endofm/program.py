"""What the programs share: a command line with a recipe in it, and faults as one sentence."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

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
    """The only place that tells faults: one sentence, and exit status 1.

    Of the input, of the system (a full disk, a file without permission), or too little memory.
    Faults of ours keep their traceback.
    """
    try:
        yield
    except BrokenPipeError:  # `| head` has what it wanted
        sys.stderr.close()
        raise SystemExit(1) from None
    except (EndofmError, OSError, RuntimeError) as error:
        sentence = _sentence(error)
        if not sentence:
            raise
        if is_first_to_say(sentence):
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(Text.assemble(("error:", "red"), f" {sentence}"))
        raise SystemExit(1) from error


def _sentence(error: EndofmError | OSError | RuntimeError) -> str:
    """What a user is told; nothing for a fault of ours."""
    if isinstance(error, EndofmError):
        return str(error)
    if isinstance(error, OSError):
        about = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "make room, and give the same command again" if full else _SYSTEM
        return f"{about}{error.strerror or error}; {way_out}."
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            "The device ran out of memory; lower optim.batch_size and raise optim.accumulate by as "
            "much, or set model.gradient_checkpointing."
        )
    return ""


_SYSTEM = "the system says so: mend it there, or choose another place, and give the command again"
