"""A rank that dies or hangs ends the run in time and is named, for real programs under torchrun."""

import signal
import time
from dataclasses import replace

import pytest

from tests.labelled import small_finetune, write_labelled
from tests.processes import ROOT, finish, num_rows, ranks, send, start, wait_for
from tests.small import small_recipe, write_corpus

PATIENCE = 20
LAUNCHER = 30
"""Seconds that torchrun gives processes to end by themselves."""

pytestmark = pytest.mark.slow


def endless_pretraining(folder):
    config = small_recipe(write_corpus(folder, num_clips=8), folder / "run", log_every=1)
    return replace(
        config,
        optim=replace(config.optim, epochs=4000),
        run=replace(config.run, patience_seconds=PATIENCE),
    ), config.run.out


def endless_finetuning(folder):
    config = small_finetune(
        write_labelled(folder, 16), folder / "run", epochs=4000, log_every=1,
        patience_seconds=PATIENCE,
    )  # fmt: skip
    return config, config.run.out / "seed_0"


@pytest.mark.parametrize(
    ("program", "number", "rank", "seconds"),
    [
        ("pretrain", signal.SIGKILL, 0, LAUNCHER),
        ("pretrain", signal.SIGSTOP, 1, 1.1 * PATIENCE + 10 + LAUNCHER),
        ("finetune", signal.SIGKILL, 1, LAUNCHER),
        ("finetune", signal.SIGSTOP, 0, 1.1 * PATIENCE + 10 + LAUNCHER),
    ],
    ids=["dies", "hangs", "dies_in_finetuning", "hangs_in_finetuning"],
)
def test_a_lost_rank_ends_the_run_in_time_and_is_named(tmp_path, program, number, rank, seconds):
    make = {"pretrain": endless_pretraining, "finetune": endless_finetuning}[program]
    config, out = make(tmp_path)
    process = start(program, config, 2)
    wait_for(process, lambda: num_rows(out) >= 2)
    victim = ranks(process)[rank]
    send([victim], number)
    begin = time.monotonic()
    told = finish(process)
    assert process.returncode and time.monotonic() - begin < seconds + 40  # a busy machine
    assert told.count(f"The run has lost rank {rank} (") == 1, told[-4000:]
    assert f"process {victim})" in told


def test_two_processes_share_a_folder_lock_and_tell_a_fault_once(tmp_path):
    config, out = endless_pretraining(tmp_path)
    first = start("pretrain", config, 2)
    wait_for(first, lambda: num_rows(out) >= 1)
    second = start("pretrain", config, 2)
    told = finish(second)
    assert second.returncode and told.count("Another run is writing to") == 1, told[-4000:]
    # the launcher, which may lie in an environment below ROOT, has a traceback of its own
    assert not any(f'File "{ROOT / room}' in told for room in ("endofm", "pretrain"))
    rows = num_rows(out)
    wait_for(first, lambda: num_rows(out) > rows)
    first.send_signal(signal.SIGTERM)
    assert "the same command goes on" in finish(first)
    too_many = replace(config, optim=replace(config.optim, batch_size=5))
    third = start("pretrain", too_many, 2)
    told = finish(third)
    assert third.returncode and told.count("x 2 processes), but an epoch has only 8") == 1, told
