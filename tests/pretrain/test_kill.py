"""Real processes, killed at random: what they finish is what an uninterrupted run finishes.

Twenty times kill -9 in all: twelve times on one process, eight times on two; seven of them while a
checkpoint is being written, two while the program starts, one on a single rank, one on the launcher
alone. A SIGTERM and a Ctrl-C come on top.
"""

import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import (
    assert_equal_bit_for_bit,
    finish,
    kill_all,
    kill_while_saving,
    last_step,
    num_rows,
    ranks,
    rows,
    run_to_the_end,
    send,
    start,
    state,
    wait_for,
)
from tests.small import small_recipe, write_corpus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), num_clips=8)


def recipe(manifest, out, world):
    """160 steps of four clips with drop path, augmentation, accumulation and data workers."""
    config = small_recipe(manifest, out, save_every=2, log_every=1)
    optim = replace(
        config.optim, epochs=80, batch_size=2 // world, accumulate=2, freeze_last_layer_epochs=1
    )
    return replace(
        config,
        model=replace(config.model, drop_path=0.2),
        data=replace(config.data, workers=1),
        optim=optim,
    )


def wait_for_a_random_moment(process, out, draw):
    """Some steps after those that are there, somewhere in a step."""
    wanted = num_rows(out) + draw.randint(1, 6)
    wait_for(process, lambda: num_rows(out) >= wanted)
    time.sleep(draw.uniform(0, 0.1))


def starting(process, out, draw):
    time.sleep(draw.uniform(0.5, 6))
    kill_all(process)


def in_a_step(process, out, draw):
    wait_for_a_random_moment(process, out, draw)
    kill_all(process)


def saving(process, out, draw):
    wait_for_a_random_moment(process, out, draw)
    kill_while_saving(process, out)


def one_rank(process, out, draw):
    """As the system does where memory is short: launcher, workers and the other rank live on."""
    wait_for_a_random_moment(process, out, draw)
    send([ranks(process)[1]], signal.SIGKILL)
    told = finish(process)
    assert "The run has lost rank 1" in told, told[-3000:]


def launcher(process, out, draw):
    """Its processes stop by themselves, with a checkpoint, or they would lock the folder."""
    wait_for_a_random_moment(process, out, draw)
    send([process.pid], signal.SIGKILL)
    told = finish(process)
    assert told.count("the same command goes on from there") == 1, told[-3000:]


def asked(number):
    def ask(process, out, draw):
        wait_for_a_random_moment(process, out, draw)
        if number == signal.SIGINT:  # a terminal signals the whole group
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        told = finish(process)
        assert told.count("the same command goes on from there") == 1, told[-3000:]
        assert rows(out)[-1]["step"] == last_step(out)

    return ask


ON_ONE = [in_a_step, saving, in_a_step, starting, saving, in_a_step] * 2
ON_TWO = [in_a_step, saving, one_rank, saving, in_a_step, saving, launcher, in_a_step]
POLITE = [asked(signal.SIGTERM), asked(signal.SIGINT)]


def test_twenty_kills_are_planned_and_seven_of_them_while_saving():
    assert len([*ON_ONE, *ON_TWO]) == 20 and [*ON_ONE, *ON_TWO].count(saving) == 7


@pytest.mark.parametrize(("world", "kills"), [(1, ON_ONE), (2, ON_TWO)], ids=["one", "two"])
def test_a_killed_run_ends_like_an_uninterrupted_one(manifest, tmp_path, world, kills):
    whole, killed = (recipe(manifest, tmp_path / name, world) for name in ("whole", "killed"))
    run_to_the_end("pretrain", whole, world)
    draw = random.Random(world)
    for kill in [*kills, *POLITE]:
        process = start("pretrain", killed, world)
        if world > 1:
            wait_for(process, lambda process=process: len(ranks(process)) == world, every=0.2)
        kill(process, killed.run.out, draw)
        assert process.returncode, "the run ended before it was killed"
    assert last_step(killed.run.out) < 160
    told = run_to_the_end("pretrain", killed, world)
    assert "Goes on from the checkpoint" in told
    assert_equal_bit_for_bit(whole.run.out, killed.run.out)
    assert {"center", "optimizer.0.exp_avg_sq"} <= set(state(killed.run.out))
    models = [load_file(c.run.out / "model" / "model.safetensors") for c in (whole, killed)]
    assert all(torch.equal(models[0][name], tensor) for name, tensor in models[1].items())
    losses = [[row["loss"] for row in rows(c.run.out)] for c in (whole, killed)]
    assert len(losses[0]) == 160 and losses[0] == losses[1]
