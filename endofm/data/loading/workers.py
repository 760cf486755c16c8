"""A process that reads clips: what it does, and how it looks from outside."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeAlias, TypeVar

import cv2
import torch
from torch.utils.data import Dataset

from endofm.errors import EndofmError, RunError, VideoError

LOOKS = 10
"""Looks at a process within the time of a clip. Only looks count, so that a machine or group of
processes that was halted for a while finds its clips no older than before."""
NOTE_BYTES = 4096
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""

T_co = TypeVar("T_co", covariant=True)
Join = Callable[[list[Any]], Any]


class Clips(Dataset[T_co]):
    """Samples by number, from clips of which some may be left out."""

    def __init__(self) -> None:
        """Nothing is left out."""
        self.left_out: dict[str, str] = {}  # clip -> why
        self.note: Callable[[str], None] = _note_nothing

    def begin(self, name: str) -> None:
        """Say that this clip is being read from now on; `VideoError` for one that is left out."""
        if reason := self.left_out.get(name):
            raise VideoError(reason)
        self.note(name)


@dataclass(eq=False)
class Worker:
    """A process that reads clips, seen from outside, and what it is to read."""

    process: multiprocessing.process.BaseProcess
    connection: "Connection[Any, Any]"
    note: Any  # shared memory: when a clip was begun, and its name; empty between batches
    tasks: dict[int, list[int]] = field(default_factory=dict)
    thread: threading.Thread | None = None
    seen: bytes = b""
    looks: int = 0

    @classmethod
    def start(cls, dataset: Clips[Any], join: Join) -> "Worker":
        """A new process with a pipe of its own; raises `RunError` where there can be none."""
        ours, theirs = multiprocessing.Pipe()
        note = multiprocessing.RawArray("c", NOTE_BYTES)
        arguments = (dataset, join, theirs, note, os.getpid())
        process = multiprocessing.Process(target=_read_for, args=arguments, daemon=True)
        try:
            process.start()
        except OSError as error:
            raise RunError(
                f"A process that reads clips can't be started ({error.strerror}); lower "
                "data.workers, or give it more memory."
            ) from error
        theirs.close()  # so that its end is seen here
        return cls(process, ours, note)

    def listen(self, inbox: "Inbox", device: int | None) -> None:
        """Have a thread put into `inbox` what it sends, pinned for a GPU.

        The last thing that comes is `None` and an error: it is lost.
        """
        self.thread = threading.Thread(target=_listen, args=(self, inbox, device), daemon=True)
        self.thread.start()

    def ask(self, number: int, positions: list[int], left_out: Mapping[str, str]) -> None:
        """Have it read a batch."""
        self.tasks[number] = positions
        with contextlib.suppress(OSError):  # it has died, as its thread will say
            self.connection.send((number, positions, left_out))

    def kill(self) -> None:
        """End it; a hung decoder hears nothing less."""
        self.process.kill()
        self.process.join(5)

    @property
    def clip(self) -> str:
        """The clip that it is on, or empty."""
        text: str = self.note.value.decode(errors="replace")
        return text.partition(" ")[2]

    def gets_nowhere(self) -> bool:
        """One more look: whether it has been on the same clip for all of them."""
        note = self.note.value
        self.looks = self.looks + 1 if note == self.seen else 0
        self.seen = note
        return self.looks >= LOOKS


Inbox: TypeAlias = "queue.SimpleQueue[tuple[Worker, int | None, Any]]"


def end_all(workers: list[Worker]) -> None:
    """End processes and their threads, and forget them."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.kill()
        if worker.thread is not None:
            worker.thread.join(5)
    workers.clear()


def pinned(batch: Any) -> Any:
    """A batch in page-locked memory, if it can be."""
    return batch.pin_memory() if hasattr(batch, "pin_memory") else batch


def _note_nothing(name: str) -> None:
    pass


def _note(note: Any, name: str) -> None:
    note.value = f"{time.monotonic_ns()} {name}".encode()[: NOTE_BYTES - 1]


def _listen(worker: Worker, inbox: Inbox, device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)  # a thread begins with GPU 0, whichever is this process's
        torch.set_num_threads(1)  # the copy to page-locked memory would take every core
    with worker.connection as connection:
        try:
            while True:
                number, item = connection.recv()
                inbox.put((worker, number, item if device is None else pinned(item)))
        except Exception as error:  # whatever half a message gives
            inbox.put((worker, None, error))


def _read_for(
    dataset: Clips[Any],
    join: Join,
    connection: "Connection[Any, Any]",
    note: Any,
    parent: int,
) -> None:
    """In a worker: read batches for as long as there is somebody to ask for them.

    A terminal or scheduler signals the whole group: a worker that died of it would end the run
    before it has saved. More threads in a worker only take time from the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # where a sibling, too, holds the other end of the pipe
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset.note = functools.partial(_note, note)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task, positions, left_out = connection.recv()
            item = _read(dataset, join, positions, left_out)
            note.value = b""
            _send(connection, task, item)


def _read(
    dataset: Clips[Any], join: Join, positions: list[int], left_out: Mapping[str, str]
) -> Any:
    dataset.left_out.update(left_out)
    try:
        return join([dataset[position] for position in positions])
    except EndofmError as error:
        return error
    except Exception:
        return RuntimeError(f"In a process that reads clips:\n{traceback.format_exc()}")


def _send(connection: "Connection[Any, Any]", task: int, item: Any) -> None:
    try:
        connection.send((task, item))
    except ConnectionError:
        raise
    except (OSError, RuntimeError) as error:  # before a byte was sent
        told = RunError(
            f"A batch can't be handed on by the process that read it ({error}): make /dev/shm "
            "larger (docker: --shm-size), raise the limit of open files (`ulimit -n`), or lower "
            "data.workers."
        )
        connection.send((task, told))
