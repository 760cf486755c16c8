"""Real processes, killed at random: what they finish is what an uninterrupted run finishes."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from endofm.config import to_yaml
from tests.small import small_recipe, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(tmp_path):
    manifest = write_corpus(tmp_path / "corpus")
    kills = 0
    for name in ("whole", "killed"):
        config = small_recipe(manifest, tmp_path / name, save_every=3)
        config = replace(
            config,
            optim=replace(config.optim, epochs=600, warmup_epochs=1),
            data=replace(config.data, workers=1),
        )
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(to_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "pretrain", "--config", str(recipe)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        draw = random.Random(0)
        for _ in range(40):
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE
            )
            try:
                patience = 600 if name == "whole" else draw.uniform(7, 11)
                _, told = process.communicate(timeout=patience)
                assert process.returncode == 0, told.decode()
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
    assert kills >= 2
    one, two = (
        load_file(max((tmp_path / name / "checkpoints").glob("step-*")) / "model.safetensors")
        for name in ("whole", "killed")
    )
    assert set(one) == set(two) and all(torch.equal(one[key], two[key]) for key in one)
