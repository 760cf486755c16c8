"""Real processes, killed: what they finish is what an uninterrupted run finishes."""

import json
import random
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.labelled import small_finetune, write_labelled
from tests.processes import (
    assert_equal_bit_for_bit,
    kill_all,
    kill_while_saving,
    num_rows,
    run_to_the_end,
    start,
    wait_for,
)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_run_killed_four_times_ends_like_an_uninterrupted_one_bit_for_bit(tmp_path, world):
    manifest = write_labelled(tmp_path / "corpus", 16)
    whole, killed = (
        small_finetune(
            manifest, tmp_path / name, epochs=20, batch_size=2 // world, drop_path=0.2, workers=1,
            log_every=1,
        )
        for name in ("whole", "killed")
    )  # fmt: skip
    assert "starts at step 0" in run_to_the_end("finetune", whole, world)
    one, two = (config.run.out / "seed_0" for config in (whole, killed))
    draw = random.Random(0)
    for is_saving in (False, True, False, True):
        process = start("finetune", killed, world)
        wanted = num_rows(two) + draw.randint(5, 12)
        wait_for(process, lambda wanted=wanted: num_rows(two) >= wanted)
        if is_saving:
            kill_while_saving(process, two)
        else:
            time.sleep(draw.uniform(0, 0.1))
            kill_all(process)
        assert not (two / "metrics.json").exists()
    assert "starts at step 0" not in run_to_the_end("finetune", killed, world)
    assert_equal_bit_for_bit(one, two)
    best = [load_file(folder / "best.safetensors") for folder in (one, two)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    told = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert told[0]["metrics"] == told[1]["metrics"] and told[0]["chosen"] == told[1]["chosen"]
    assert (one / "samples.csv").read_bytes() == (two / "samples.csv").read_bytes()
