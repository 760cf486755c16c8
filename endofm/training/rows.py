"""metrics.jsonl: a row of numbers a line, written again after a kill from where a run resumes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from endofm.errors import OutputError
from endofm.files import write_text

WAY_OUT = "make room, and the same command resumes from the last checkpoint"


class Rows:
    """The rows of a run in one file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, step: int, row: Mapping[str, float]) -> None:
        """One more row. Raises `OutputError` where it can't be written."""
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.file} can't be written ({error.strerror}); {WAY_OUT}."
            ) from error

    def keep(self, is_wanted: Callable[[dict[str, float]], bool]) -> None:
        """Drop the other rows, and lines that aren't rows."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if is_wanted(json.loads(line)):
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):  # the half line of a killed run
                continue
        write_text(self.file, "".join(line + "\n" for line in kept))
