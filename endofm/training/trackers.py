"""Trackers beside metrics.jsonl, each in a thread of its own: none can stop or delay a run."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from endofm.errors import ConfigError

MAX_WAITING = 200
"""Rows that may wait for a tracker before it is taken for dead."""
FINISH_SECONDS = 60.0
"""How long a finished run waits for its trackers to have everything."""


class Trackers:
    """Any number of trackers, none included, behind one `log`."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        tree: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        """Start the named trackers (`tensorboard`, `wandb`) in a run's folder."""
        self.all = [Tracker(name, partial(START[name], folder, tree), warn) for name in names]

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Hand one row of metrics to every tracker."""
        for tracker in self.all:
            tracker.log(row, step)

    def finish(self) -> None:
        """Close them; a second call does nothing."""
        for tracker in self.all:
            tracker.finish()


class Tracker(threading.Thread):
    """One tracker. Whatever it does, the caller is told in a sentence and goes on."""

    def __init__(
        self, name: str, begin: Callable[[], GeneralTracker], warn: Callable[[str], None]
    ) -> None:
        """Begin at once; `begin` makes and starts the tracker."""
        super().__init__(daemon=True)
        self.name, self.begin, self.warn = name, begin, warn
        self.rows: queue.SimpleQueue[tuple[dict[str, float], int] | None] = queue.SimpleQueue()
        self.is_left_out = False
        self.start()

    def run(self) -> None:
        """In the thread: rows until `None`."""
        try:
            tracker = self.begin()
            while (item := self.rows.get()) is not None:
                row, step = item
                tracker.log(row, step=step)
            tracker.finish()
        except Exception as error:  # a tracker may fail in any way; none is worth a run
            reason = str(error) or type(error).__name__
            self._leave_out(f"failed and is left out from here on: {reason}")

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Hand it a row; never waits."""
        if self.is_left_out:
            return
        self.rows.put((dict(row), step))
        if self.rows.qsize() > MAX_WAITING:
            self._leave_out("does not answer and is left out from here on.")

    def finish(self) -> None:
        """Give it some time to hand on what it has."""
        if self.is_left_out:
            return
        self.rows.put(None)
        self.join(FINISH_SECONDS)
        if self.is_alive():
            self._leave_out(f"was not finished within {FINISH_SECONDS:g} s and is left alone.")

    def _leave_out(self, what: str) -> None:
        self.is_left_out = True
        self.warn(f"The tracker {self.name} {what}")


def _start_tensorboard(folder: Path, tree: Mapping[str, Any]) -> GeneralTracker:
    tracker: GeneralTracker = TensorBoardTracker("tensorboard", str(folder))
    try:
        tracker.start()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tensorboard is not installed ({error}); `pip install 'endofm[tensorboard]'`."
        ) from error
    return tracker


def _start_wandb(folder: Path, tree: Mapping[str, Any]) -> GeneralTracker:
    tracker: GeneralTracker = WandBTracker(
        "endofm", name=folder.name, dir=str(folder), config=dict(tree)
    )
    tracker.start()
    return tracker


START: dict[str, Callable[[Path, Mapping[str, Any]], GeneralTracker]] = {
    "tensorboard": _start_tensorboard,
    "wandb": _start_wandb,
}
