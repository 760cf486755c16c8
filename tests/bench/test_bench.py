"""`endofm bench`: what it measures, and the sentences it makes of it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from endofm.bench.clock import Clock
from endofm.bench.data_path import PARTS as DATA_PARTS
from endofm.bench.data_path import DataTime
from endofm.bench.measure import StepTime, make_step, time_steps
from endofm.bench.plan import BenchConfig, Way, ways
from endofm.bench.report import sentences, table, tell
from endofm.bench.run import Result
from endofm.bench.steps import PARTS
from endofm.cli import main
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import ConfigError
from tests.make import write_video

SMALL = """
views: {global_frames: [2, 4], local_frames: [2, 2], global_pixels: 32, local_pixels: 16}
model: {name: timesformer_mini, patch_pixels: 8}
objective: {prototypes: 32}
optim: {epochs: 10, warmup_epochs: 1}
"""
FLOAT32, BF16 = Way("ours", "no"), Way("ours", "bf16")


def small_config(folder, **changes):
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    return BenchConfig(recipe=folder / "small.yaml", quick=True, **changes)


def result(step=2.0, core=0.1, **changes):
    parts = dict.fromkeys(PARTS, step / len(PARTS))
    times = [
        StepTime(way, seconds, parts) for way, seconds in ((Way("reference", "no"), 3 * step),)
    ]
    times += [StepTime(FLOAT32, step, parts), StepTime(BF16, step / 2, parts)]
    data = dict.fromkeys(DATA_PARTS, core / 4)
    plain = {"open": core / 4, "decode": core / 2, "views": 2 * core, "transport": 0.0}
    made = Result(
        machine="a machine",
        model="timesformer_mini",
        batch_size=1,
        clips=100,
        epochs=30.0,
        views=[(2, 32), (2, 16)],
        run_precision="no",
        clip_flops=1e12,
        peak_flops={"no": 1e12, "bf16": 4e12},
        steps=times,
        memory={Way("reference", "no"): 4 * 2**30, FLOAT32: 2**30},
        data=DataTime(data, plain, 5_000_000, 20_000_000, "a clip"),
        time_of="wall",
    )
    return replace(made, **changes)


@pytest.mark.parametrize("bf16", [4e12, 0.5e12])
def test_the_command_measures_and_writes_table_and_figures(tmp_path, capsys, monkeypatch, bf16):
    speeds = {"no": 1e12, "bf16": bf16}
    monkeypatch.setattr("endofm.bench.run.matrix_speed", lambda device, kind, now: speeds[kind])
    write_video(tmp_path / "clip.mp4", 40, size=(48, 64))
    write_manifest(tmp_path / "manifest.csv", [Segment(tmp_path, "clip.mp4", 0, 40)])
    small_config(tmp_path)
    files = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")]
    recipe = ["--recipe", str(tmp_path / "small.yaml"), "--device", "cpu", "--quick"]
    threads = torch.get_num_threads()
    main(["bench", *recipe, "--manifest", str(tmp_path / "manifest.csv"), *files])
    assert torch.get_num_threads() == threads
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(one["way"]["code"], one["way"]["precision"]) for one in found["steps"]] == [
        ("reference", "no"),
        ("ours", "no"),
        *[("ours", "bf16")] * (bf16 > 1e12),
    ]
    for one in found["steps"]:
        assert all(one["parts"][part] > 0 for part in ("teacher", "student", "backward"))
        assert sum(one["parts"].values()) == pytest.approx(one["seconds"], rel=0.5)
    assert found["data"]["bytes_of_reference"] > 3.9 * found["data"]["bytes_of_ours"]
    assert found["epochs"] == 10 and found["model"] == "timesformer_mini"
    report = (tmp_path / "found.md").read_text()
    assert "10 epochs of 33000 clips take" in report and "times the reference" in report
    assert ("Steps in bf16 are left out" in report) is (bf16 < 1e12)
    assert "1 clips of manifest.csv" in capsys.readouterr().out


def test_all_ways_of_a_step_begin_with_the_same_weights(tmp_path):
    recipe = small_config(tmp_path).read_recipe()
    tasks = [
        make_step(recipe, Way(code, "no"), Clock(torch.device("cpu"))).task
        for code in ("ours", "reference")
    ]
    for one, other in zip(*(task.state_dict().values() for task in tasks), strict=True):
        assert torch.equal(one, other)


def test_rounds_take_every_way_and_leave_the_products_as_they_were(tmp_path):
    config = replace(small_config(tmp_path), quick=False, repetitions=2)
    before = torch.backends.mkldnn.matmul.fp32_precision
    chosen = ways(config, torch.device("cpu"), has_bf16=True)
    times = time_steps(config, config.read_recipe(), chosen, torch.device("cpu"))
    assert [one.way for one in times] == chosen and len(chosen) >= 6
    assert all(one.seconds > 0 for one in times)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_peak_memory_is_of_the_process_itself_not_of_its_parent():
    held = torch.ones(2**27)  # 512 MiB in this one
    own = "; import torch; kept = torch.ones(2**26); after = resident_peak(); "  # 256 MiB
    code = f"from endofm.bench.memory import resident_peak; before = resident_peak(){own}"
    told = subprocess.run(
        [sys.executable, "-c", code + "print(before, after)"], capture_output=True, check=True
    )
    before, after = map(int, told.stdout.split())
    assert held.sum() > 0
    assert 0 < after - before <= 1.1 * 2**28


def test_words_say_what_limits():
    slow_step = "\n".join(sentences(result(step=2.0, core=0.1)))
    assert "the step limits a run, and one worker keeps up (5.0% of its time)" in slow_step
    slow_data = "\n".join(sentences(result(step=0.05, core=0.3)))
    assert "data limits a run with fewer than 6 workers; give --data.workers 6" in slow_data


def test_without_bf16_no_way_takes_it_and_the_words_say_why():
    for quick in (True, False):
        chosen = ways(BenchConfig(quick=quick), torch.device("cpu"), has_bf16=False)
        assert chosen[:2] == [Way("reference", "no"), FLOAT32]
        assert {way.precision for way in chosen} == {"no"}
    float32 = [one for one in result(step=100.0).steps if one.way != BF16]
    slow = result(steps=float32, peak_flops={"no": 1e12, "bf16": 5e10}, run_precision="bf16")
    told = "\n".join(sentences(replace(slow, steps=[replace(o, seconds=100.0) for o in float32])))
    assert "Steps in bf16 are left out" in told and "0.05 times the speed of float32" in told
    assert "takes 100 s (ours, float32)" in told
    assert "left out" not in "\n".join(sentences(result()))


def test_words_say_how_long_a_recipe_takes_in_its_own_precision():
    told = "\n".join(sentences(result(step=100.0)))
    assert "30 epochs of 100 clips take 3.47 days here" in told
    told = "\n".join(sentences(result(step=100.0, run_precision="bf16")))
    assert "take 41.7 hours here" in told


def test_ratios_are_those_to_the_float32_reference():
    told = tell(result())
    assert "| ours, bf16         | 1       | 6.00                |" in told
    assert "| ours, float32      | 1.00 | 0.25                   |" in told
    assert "Views are cut 80.0 times as fast" not in told and "8.0 times as fast" in told


def test_tables_are_aligned():
    assert table(["a", "bb"], [["ccc", "d"]]).splitlines() == [
        "| a   | bb |",
        "| --- | -- |",
        "| ccc | d  |",
    ]


def test_what_the_reference_does_not_know_is_refused(tmp_path):
    (tmp_path / "joint.yaml").write_text("model: {attention: joint_space_time}\n")
    with pytest.raises(ConfigError, match="joint_space_time, which the plain reference does not"):
        BenchConfig(recipe=tmp_path / "joint.yaml").read_recipe()
    with pytest.raises(ConfigError, match="--repetitions is 0"):
        BenchConfig(repetitions=0)
