"""A real process, killed: what it finishes is what an uninterrupted one finishes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from endofm.config import to_yaml
from tests.labelled import small_finetune, write_labelled

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_run_ends_like_an_uninterrupted_one_bit_for_bit(tmp_path):
    manifest = write_labelled(tmp_path / "corpus", 16)
    ends = {}
    for name in ("whole", "killed"):
        config = small_finetune(manifest, tmp_path / name, epochs=12, drop_path=0.2, workers=1)
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(to_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "finetune", "--config", str(recipe)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        folder = tmp_path / name / "seed_0"
        if name == "killed":
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            until = time.monotonic() + 240
            while not list(folder.glob("checkpoints/step-*/whole.json")):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (folder / "metrics.json").exists()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("starts at step 0" in done.stdout) == (name == "whole")
        told = json.loads((folder / "metrics.json").read_text())
        ends[name] = told["metrics"], told["chosen"], load_file(folder / "best.safetensors")
    assert ends["whole"][:2] == ends["killed"][:2]
    one, two = ends["whole"][2], ends["killed"][2]
    assert all(torch.equal(one[key], two[key]) for key in one)
