"""Processes that lose one another, as real processes with a launcher's list, in seconds."""

import multiprocessing
import os
import signal
import time
from datetime import timedelta

import pytest
import torch
from torch import distributed

from endofm.errors import RunError
from endofm.processes import is_first_to_say
from endofm.training import peers
from endofm.training.peers import Peers, is_failed_collective

WORLD = 4  # more than are neighbours in a ring: some only hear of a loss by the alarm
PATIENCE = 4.0


def work(rank, port, fault, patience, told):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")  # fmt: skip
    peers.SIGNING_SECONDS, peers.STUCK_SECONDS = 2.5, 4.0
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=1.1 * patience))
    ours = Peers(rank, WORLD, patience)
    assert ours.highest(rank) == WORLD - 1
    error = None
    try:
        if rank == 1:
            fault()
        distributed.all_reduce(torch.ones(1000))
        ours.highest(0)
    except Exception as found:
        error = found
    try:
        ours.leave(error)
    except (RunError, SystemExit) as end:
        told.put((rank, repr(end), is_first_to_say(repr(end))))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def hang():
    time.sleep(30)


def fail():
    raise ValueError("of its own")


def processes(fault, patience=PATIENCE):
    """What each rank said at its end, and the seconds until all but the lost one had ended."""
    fork = multiprocessing.get_context("fork")
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = fork.SimpleQueue()
    every = [
        fork.Process(target=work, args=(rank, store.port, fault, patience, told))
        for rank in range(WORLD)
    ]
    begin = time.monotonic()
    for process in every:
        process.start()
    for rank, process in enumerate(every):
        if rank != 1:
            process.join(60)
    seconds = time.monotonic() - begin
    every[1].kill()
    every[1].join()
    assert not any(process.is_alive() for process in every)
    found = []
    while not told.empty():
        found.append(told.get())
    return found, seconds, every[1].pid


@pytest.mark.parametrize(
    ("fault", "patience"),
    [(die, 60.0), pytest.param(stop, PATIENCE, marks=pytest.mark.slow), (hang, PATIENCE)],
)
def test_a_lost_rank_is_named_by_the_others_in_time(fault, patience):
    found, seconds, pid = processes(fault, patience)
    assert found and seconds < 20
    for rank, sentence, _ in found:
        assert rank != 1 and "The run has lost rank 1 (" in sentence, sentence
        assert f"process {pid}" in sentence and "rank 2" not in sentence, sentence
    assert sum(is_first for *_, is_first in found) == 1


def test_a_rank_with_an_error_of_its_own_tells_it_alone_and_all_end_at_once():
    found, seconds, _ = processes(fail, patience=60.0)
    assert {sentence for _, sentence, _ in found} == {"SystemExit(1)"} and seconds < 15
    assert {rank for rank, *_ in found} <= {0, 2, 3}


def test_gloo_and_torch_failures_are_told_from_faults_of_ones_own():
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    assert is_failed_collective(gloo) and is_failed_collective(distributed.DistError("x"))
    assert not is_failed_collective(RuntimeError("shapes")) and not is_failed_collective(OSError())


def test_alone_there_is_nobody_to_lose():
    alone = Peers(0, 1, 60.0)
    assert alone.highest(3) == 3
    alone.leave(RunError("of its own"))
