"""The parts of a step, timed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

TimeOf = Literal["wall", "processor"]
"""What a second is: the clock's, or the processor's (all threads together, divided by their number)
where other programs run on the machine too.
"""


class Clock:
    """Adds up seconds by part; waits for a GPU at the borders of parts only if told to."""

    def __init__(self, device: torch.device, time_of: TimeOf = "wall") -> None:
        self.device, self.time_of = device, time_of
        self.seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def now(self) -> float:
        """Seconds, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.time_of == "processor":
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()

    def start(self, name: str) -> None:
        """The part begins."""
        self._started[name] = self.now()

    def stop(self, name: str) -> None:
        """The part is over."""
        spent = self.now() - self._started.pop(name)
        self.seconds[name] = self.seconds.get(name, 0.0) + spent

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts as `name`."""
        self.start(name)
        yield
        self.stop(name)

    def taken(self) -> dict[str, float]:
        """The seconds so far, which start anew."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def spent(clock: Clock, action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = clock.now()
    action()
    return clock.now() - start
