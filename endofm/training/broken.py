"""Clips that turned out to be broken while a run read them, and how many it tolerates."""

import csv
from collections.abc import Sequence
from pathlib import Path

from endofm.data.pretraining.dataset import Broken
from endofm.errors import RunError
from endofm.files import write_csv
from endofm.training.rows import WAY_OUT


class BrokenClips:
    """Names and reasons, kept in the run's quarantine.csv."""

    def __init__(self, file: Path, num_clips: int, max_share: float) -> None:
        """Of `num_clips`, `max_share` may be broken."""
        self.file, self.num_clips = file, num_clips
        self.max_broken = int(max_share * num_clips)
        self.reasons: dict[str, str] = {}

    def read(self) -> None:
        """Take over what an earlier start, or a user, has listed.

        Raises `RunError` for a file that can't be read.
        """
        if self.file.is_file():
            self.reasons = _read(self.file)

    def add(self, reports: Sequence[Broken], is_main: bool) -> list[str]:
        """List new ones; the reasons of those that are new."""
        new = {name: reason for name, reason in reports if name not in self.reasons}
        if new:
            self.reasons |= new
            if is_main:
                write_csv(self.file, ("clip", "reason"), sorted(self.reasons.items()), WAY_OUT)
        return list(new.values())

    def check_share(self) -> None:
        """Raise `RunError` for too many."""
        if len(self.reasons) > self.max_broken:
            raise RunError(
                f"{len(self.reasons)} of {self.num_clips} clips can't be decoded, more than "
                f"data.max_broken_share allows ({self.max_broken}); {self.file} names each "
                "and why: fix them and delete that file, raise the share, or leave them out of "
                "the manifest and give another --run.out."
            )


def _read(file: Path) -> dict[str, str]:
    """Clips and reasons, a line each; a user may have written some, with or without a header."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = [line for line in csv.reader(opened) if line and line != ["clip", "reason"]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(
            f"{file} can't be read ({error}); fix it, or delete it to have its clips tried again."
        ) from error
    return {line[0]: ",".join(line[1:]) for line in lines}
