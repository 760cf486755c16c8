"""`check` and `leaks` processes, killed: run again, they say what an uninterrupted one says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.synthetic import render_clip
from tests.leaks.planting import write_h264

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 30


def start(*words):
    command = [sys.executable, "-m", "endofm", "corpus", *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def made(cache):
    return {file: file.stat().st_mtime_ns for file in cache.glob("*/*.npz")}


def kill_after(process, cache, num_more):
    """Kill once so many more fingerprints are there."""
    wanted = len(made(cache)) + num_more
    while len(made(cache)) < wanted:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "leaks"])
def test_a_killed_command_goes_on_and_says_what_an_uninterrupted_one_says(tmp_path, command):
    results = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        rows = []
        for number in range(NUM_CLIPS):  # the last ones show what the first ones show
            frames = render_clip(number % (NUM_CLIPS - 2), "colon", False, 24, 64, 64).frames
            write_h264(folder / f"{number:02d}.mp4", frames, 18, 15)
            split = "test" if number >= NUM_CLIPS - 2 else "train"
            rows.append(Segment(folder, f"{number:02d}.mp4", group=str(number), split=split))
        manifest, cache = folder / "m.csv", folder / "cache"
        write_manifest(manifest, rows)
        words = [command, manifest, "--cache", cache, "--workers", "1"]
        words += ["--out", folder / "out"] if command == "leaks" else []
        before = {}
        for num_more in (4, 9) if name == "killed" else ():
            kill_after(start(*words), cache, num_more)
            assert before.items() <= made(cache).items()
            before = made(cache)
        assert len(before) < NUM_CLIPS
        process = start(*words)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said.decode()
        # What was made before it was killed is as it was: nothing is decoded twice.
        assert before.items() <= made(cache).items() and len(made(cache)) == NUM_CLIPS
        end = "quarantine" if command == "check" else "leaks"
        results.append((folder / f"m.{end}.csv").read_bytes())
    assert results[0] == results[1] and results[0].count(b"\n") > 2
