"""Trackers beside metrics.jsonl. One that fails is dropped with a warning; the run goes on."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker


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
        self.warn = warn
        self.active: dict[str, GeneralTracker] = {}
        for name in names:
            self._try(name, partial(self._start, name, folder, tree))

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Hand one row of metrics to every tracker."""
        for name, tracker in list(self.active.items()):
            self._try(name, partial(tracker.log, dict(row), step=step))

    def finish(self) -> None:
        """Close them."""
        for name, tracker in list(self.active.items()):
            self._try(name, tracker.finish)

    def _start(self, name: str, folder: Path, tree: Mapping[str, Any]) -> None:
        tracker: GeneralTracker
        if name == "tensorboard":
            tracker = TensorBoardTracker("tensorboard", str(folder))
        else:
            tracker = WandBTracker("endofm", name=folder.name, dir=str(folder), config=dict(tree))
        tracker.start()
        self.active[name] = tracker

    def _try(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # a tracker may fail in any way; none is worth a run
            self.active.pop(name, None)
            self.warn(f"The tracker {name} failed and is left out from here on: {error}")
