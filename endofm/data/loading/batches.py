"""Batches from processes that read clips, which may hang in a decoder or be killed.

A decoder that hangs in its own code can't be interrupted from inside its process. So every process
has a pipe of its own, and notes in shared memory which clip it is on; one that gets nowhere is
ended, one that is lost is replaced, and its batches are read again: a batch is a function of its
positions alone.
"""

import logging
import queue
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import util
from typing import Any

import cv2
import torch

from endofm.data.loading.workers import LOOKS, Clips, Inbox, Join, Worker, end_all, pinned
from endofm.errors import RunError

PATIENCE_SECONDS = 600.0
"""Where a run states nothing else."""
PATIENCE_SHARE = 0.25
"""Share of `run.patience_seconds` that a clip may take: other processes of the run wait for it."""
AHEAD = 2
"""Batches that a process is asked for before they are wanted."""
MAX_LOST = 5
"""Processes lost for each that there is, without one batch in between, after which a run ends."""
CRASHES = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL")
"""What a faulty file does to a decoder; other signals come from outside."""

log = logging.getLogger(__name__)


class Batches:
    """Samples of `dataset` at the given positions, joined, in order, whatever becomes of workers.

    A clip that takes longer than its time, or that crashes the decoder twice, is left out: the
    dataset reports it as any other broken clip. A worker killed from outside changes nothing.
    Without workers clips are read in this process, and nothing is watched.
    """

    def __init__(
        self,
        dataset: Clips[Any],
        batches: Iterable[list[int]],
        workers: int,
        pin_memory: bool,
        join: Join,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Workers start with the first batch that is asked for."""
        self.dataset, self.join, self.num_workers = dataset, join, workers
        self.clip_seconds = PATIENCE_SHARE * patience_seconds
        self.device = torch.cuda.current_device() if pin_memory else None
        self.left_out: dict[str, str] = {}  # what was found here, and workers must be told
        self._todo: Iterator[tuple[int, list[int]]] = enumerate(batches)
        self._again: list[tuple[int, list[int]]] = []
        self._ready: dict[int, Any] = {}
        self._next = self._lost = 0
        self._crashes: Counter[str] = Counter()
        self._inbox: Inbox = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._started = False
        util.Finalize(self, end_all, (self._workers,), exitpriority=10)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises `VideoError` where nothing decodes, `RunError` if workers are lost again and again.
        """
        if not self.num_workers:
            _, positions = next(self._todo)
            batch = self.join([self.dataset[position] for position in positions])
            return batch if self.device is None else pinned(batch)
        if not self._started:
            self._start()
        while self._next not in self._ready:
            if not any(worker.tasks for worker in self._workers):
                self.close()
                raise StopIteration
            self._take()
        while not self._inbox.empty():  # so that whoever has finished gets more to do
            self._take()
        batch = self._ready.pop(self._next)
        if isinstance(batch, Exception):
            raise batch
        self._next, self._lost = self._next + 1, 0
        self._hand_out()
        return batch

    def close(self) -> None:
        """End the workers at once. Also done when nobody holds this object any more."""
        end_all(self._workers)

    def _start(self) -> None:
        self._started = True
        cv2.setNumThreads(1)  # a process forked beside OpenCV's threads hangs
        for _ in range(self.num_workers):
            self._workers.append(Worker.start(self.dataset, self.join))
        for worker in self._workers:
            worker.listen(self._inbox, self.device)
        self._hand_out()

    def _hand_out(self) -> None:
        """Ask idle workers for batches, but for none too far ahead."""
        while self._workers:
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            task = self._pick() if len(worker.tasks) < AHEAD else None
            if task is None:
                return
            worker.ask(*task, self.left_out)

    def _pick(self) -> tuple[int, list[int]] | None:
        if self._again:
            return self._again.pop(0)
        asked = len(self._ready) + sum(len(worker.tasks) for worker in self._workers)
        return next(self._todo, None) if asked < AHEAD * len(self._workers) else None

    def _take(self) -> None:
        """Wait for a worker to say something, or for a look at those that don't."""
        try:
            worker, number, item = self._inbox.get(timeout=self.clip_seconds / LOOKS)
        except queue.Empty:
            for worker in list(self._workers):
                if worker.tasks and worker.gets_nowhere():
                    self._replace(worker, self._judge_silent(worker))
            return
        if worker not in self._workers:  # replaced before it had said this
            return
        if number is None:
            worker.process.join(1)  # a killed process closes its pipe before it has ended
            error = item if worker.process.is_alive() else None
            worker.kill()
            self._replace(worker, self._judge_lost(worker, error))
        else:
            del worker.tasks[number]
            self._ready[number] = item

    def _replace(self, worker: Worker, told: str) -> None:
        self._lost += 1
        if self._lost >= MAX_LOST * self.num_workers:
            self.close()
            raise RunError(
                f"Processes that read clips were lost {self._lost} times without one batch in "
                f"between; the last: {told} Then the same command goes on from the last checkpoint."
            )
        log.warning(told)
        self._again = sorted([*self._again, *worker.tasks.items()])
        fresh = Worker.start(self.dataset, self.join)
        self._workers[self._workers.index(worker)] = fresh
        fresh.listen(self._inbox, self.device)
        self._hand_out()

    def _judge_silent(self, worker: Worker) -> str:
        """End a worker that gets nowhere, and leave out the clip that it is on."""
        clip = worker.clip
        worker.kill()
        if not clip:
            return (
                f"A process that reads clips did not answer for {self.clip_seconds:g} s and is "
                "replaced; if that goes on, lower data.workers."
            )
        self._leave_out(
            clip,
            f"{clip} was not decoded within {self.clip_seconds:g} s ({PATIENCE_SHARE:g} of "
            "run.patience_seconds); look at the file and its storage, or leave it out of the "
            "manifest.",
        )
        return self.left_out[clip]

    def _judge_lost(self, worker: Worker, error: Exception | None) -> str:
        """What became of a worker, in words; a clip that crashes the decoder again is left out.

        `error` is this process's own, met in taking a batch from a worker that lived.
        """
        if error is not None:
            return (
                f"A batch can't be taken from the process that read it ({error}): raise the limit "
                "of open files (`ulimit -n`), or lower data.workers."
            )
        clip, code = worker.clip, worker.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        where = f" on {clip}" if clip else ""
        if name in CRASHES and clip:
            self._crashes[clip] += 1
            if self._crashes[clip] == 1:
                return f"{clip} crashed the decoder ({name}) and is tried once more."
            self._leave_out(
                clip,
                f"{clip} crashes the decoder ({name}); mend it, or leave it out of the manifest.",
            )
            return self.left_out[clip]
        if name == "SIGBUS":
            return (
                f"A process that reads clips found no room in shared memory{where}: make /dev/shm "
                "larger (docker: --shm-size), or lower data.workers or optim.batch_size."
            )
        return (
            f"A process that reads clips was killed{where} ({name}), mostly for lack of memory; "
            "its batches are read again. Lower data.workers or give it more memory."
        )

    def _leave_out(self, clip: str, reason: str) -> None:
        self.left_out[clip] = self.dataset.left_out[clip] = reason
