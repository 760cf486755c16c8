"""The processes of a run among each other: agreeing to stop, and naming one that is gone.

Every step has one small collective on the CPU. A process that dies or hangs makes it (or any other
collective) fail in some of the rest within the run's patience. They raise an alarm on a list that
the launcher keeps; every process that lives signs there, even one that is stuck in a collective,
and whoever has not signed is named.
"""

import os
import signal
import socket
import threading
import time
from datetime import timedelta

import torch
from torch import distributed

from endofm.errors import RunError
from endofm.processes import launcher_list

SIGNING_SECONDS = 10.0
"""Time for all to sign after an alarm. A launcher that sees a process die gives the rest 30 s."""

STUCK_SECONDS = 15.0
"""Time after an alarm in which a process ends by itself, or is ended."""

OWN_ERROR, LOST_OTHERS = "own error", "lost others"


class Peers:
    """All processes of a run, this one included; alone it does nothing."""

    def __init__(self, rank: int, world: int, patience_seconds: float) -> None:
        """A collective call, once the processes are connected."""
        self.rank, self.world, self.patience_seconds = rank, world, patience_seconds
        self.has_left = threading.Event()
        if world > 1:
            patience = timedelta(seconds=patience_seconds)
            group = distributed.new_group(backend="gloo", timeout=patience)
            assert isinstance(group, distributed.ProcessGroup)
            self.group = group
            self.list = launcher_list()
            self.list.set(f"place/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
            threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def highest(self, number: int) -> int:
        """The highest number that any process gives, on each of them; a collective call."""
        if self.world == 1:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, self.group)
        return int(found)

    def leave(self, error: BaseException | None) -> None:
        """End the watch; raise the alarm if the run ends in an error.

        After a failed collective it raises `RunError` with the ranks that are gone, or `SystemExit`
        where another rank has ended with an error of its own, which it tells itself.
        """
        try:
            if self.world > 1 and error is not None and not isinstance(error, SystemExit):
                self._sign(error)
        finally:
            self.has_left.set()

    def _sign(self, error: BaseException) -> None:
        is_own = not is_failed_collective(error)
        try:
            self.list.set(f"left/{self.rank}", OWN_ERROR if is_own else LOST_OTHERS)
            self.list.set("alarm", "")
            if is_own:
                return
            lost = [f"rank {r} ({self.list.get(f'place/{r}').decode()})" for r in self._absent()]
        except distributed.DistError:  # the list lies with the first rank, or with its launcher
            lost = ["rank 0 (and with it the list of processes)"]
        raise RunError(
            f"The run has lost {' and '.join(lost) or 'a connection'}: it died, or did not answer "
            f"for {self.patience_seconds:g} s (run.patience_seconds); the same command goes on "
            "from the last checkpoint."
        ) from error

    def _absent(self) -> list[int]:
        """Ranks that give no sign of life; if all do, those that still don't fail: they hang."""
        deadline = time.monotonic() + SIGNING_SECONDS
        while True:
            running = [r for r in range(self.world) if not self.list.check([f"left/{r}"])]
            others = [r for r in range(self.world) if r not in running]
            if any(self.list.get(f"left/{r}").decode() == OWN_ERROR for r in others):
                raise SystemExit(1)
            if not running or time.monotonic() > deadline:
                return [r for r in running if not self.list.check([f"alive/{r}"])] or running
            time.sleep(0.1)

    def _watch(self, launcher: int) -> None:
        """In a thread: at an alarm sign for this process, and end it if it is stuck.

        Where the launcher is killed, stop as if asked to: nobody else would end this process.
        """
        is_alarm = False
        try:
            own = launcher_list()  # a connection serves one thread at a time
            while os.getppid() == launcher and not is_alarm:
                if self.has_left.wait(1.0):
                    return
                is_alarm = own.check(["alarm"])
            own.set(f"alive/{self.rank}", "")
        except distributed.DistError:  # the list is gone, with the launcher that kept it
            is_alarm = False
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
        elif is_alarm and not self.has_left.wait(STUCK_SECONDS):
            os._exit(1)


def is_failed_collective(error: BaseException) -> bool:
    """Gloo has no class of its own for what goes wrong between processes."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
