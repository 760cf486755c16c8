"""How commands talk: lines as they are, a progress bar, a fault as one sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


def say(sentence: str) -> None:
    """A line as it is: names of files are not markup."""
    Console(soft_wrap=True, highlight=False).print(Text(sentence))


@contextmanager
def progress(unit: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on a terminal, silence elsewhere; yields what is to be told (done, total)."""
    columns = (TextColumn(unit), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
