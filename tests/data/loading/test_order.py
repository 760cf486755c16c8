import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import (
    ClipViews,
    Corpus,
    DataConfig,
    SampleOrder,
    find_missing,
    load_corpus,
)
from endofm.data.pretraining.loader import BatchPlan, make_loader
from endofm.errors import ConfigError, ManifestError, VideoError
from tests.small import VIEWS, write_corpus


def corpus_of(*sizes, weights=None):
    parts = tuple(
        tuple(Segment(Path(), f"{part}/{row}") for row in range(size))
        for part, size in enumerate(sizes)
    )
    return Corpus(parts, weights or (1.0,) * len(sizes))


def test_an_epoch_shows_every_clip_once_in_a_new_order():
    order = SampleOrder(corpus_of(5, 7), seed=0)
    first, second = ([order.at(e * 12 + k) for k in range(12)] for e in range(2))
    everything = {(0, row) for row in range(5)} | {(1, row) for row in range(7)}
    assert {(p.part, p.row) for p in first} == everything == {(p.part, p.row) for p in second}
    assert [p[:2] for p in first] != [p[:2] for p in second]
    assert {p.epoch for p in first} == {0} and {p.epoch for p in second} == {1}


def test_the_order_is_a_function_of_the_seed_and_position_alone():
    one, other = SampleOrder(corpus_of(9), 4), SampleOrder(corpus_of(9), 4)
    forwards = [one.at(k) for k in range(40)]
    assert forwards == [other.at(k) for k in reversed(range(40))][::-1]
    assert forwards != [SampleOrder(corpus_of(9), 5).at(k) for k in range(40)]


def test_weights_decide_how_often_a_manifest_is_shown():
    order = SampleOrder(corpus_of(10, 10, weights=(0.5, 2.0)), seed=0)
    assert order.epoch_length == 25
    counts = Counter((p.part, p.row) for p in (order.at(k) for k in range(50)))
    assert all(counts[0, row] == 1 for row in range(10))  # half an epoch each: once in two
    assert all(counts[1, row] == 4 for row in range(10))
    seen = [order.at(k) for k in range(50)]
    assert len(set(seen)) == 50  # a repeated clip comes with another pass, hence other views


@pytest.mark.parametrize("world", [1, 2, 4])
def test_steps_take_the_same_clips_whatever_the_number_of_processes(world):
    plans = [BatchPlan(8 // world // 2, 2, rank, world) for rank in range(world)]
    for step in range(3):
        positions = sorted(p for plan in plans for m in range(2) for p in plan.positions(step, m))
        assert positions == list(range(step * 8, step * 8 + 8))


def test_a_resumed_sampler_goes_on_where_the_whole_one_would_be():
    plan = BatchPlan(2, 3, 1, 2)
    whole = list(plan.walk(0, 5))
    assert list(plan.walk(2, 5)) == whole[6:] and len(whole) == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_is_reported_and_replaced_alike_with_and_without_workers(tmp_path, workers):
    manifest = write_corpus(tmp_path)
    (tmp_path / "clip_2.mp4").write_bytes(b"not a video, whatever its name says")
    data = DataConfig(manifests=(manifest,))
    clips = ClipViews(load_corpus(data), data, VIEWS, seed=0)
    loader = make_loader(clips, BatchPlan(3, 1, 0, 1), 0, 4, workers, pin_memory=False)
    batches = list(loader)
    names = [name for batch in batches for name in batch.names]
    assert len(names) == 12 and not any("clip_2" in name for name in names)
    broken = {report for batch in batches for report in batch.broken}
    assert {name for name, _ in broken} == {"clip_2.mp4[0:12]"}
    assert all("clip_2.mp4" in reason for _, reason in broken)
    again = [clips[k] for k in range(12)]
    assert [sample.name for sample in again] == names
    assert torch.equal(batches[0].frames[0][1], again[1].views[0].frames)


def test_a_corpus_of_broken_clips_stops_instead_of_trying_for_ever(tmp_path):
    manifest = write_corpus(tmp_path, num_clips=2)
    for file in tmp_path.glob("*.mp4"):
        file.write_bytes(b"nothing")
    data = DataConfig(manifests=(manifest,))
    with pytest.raises(VideoError, match=r"^None of 100 draws from the 2 clips"):
        ClipViews(load_corpus(data), data, VIEWS, 0)[0]


def test_making_a_loader_leaves_the_networks_random_numbers_alone(tmp_path):
    data = DataConfig(manifests=(write_corpus(tmp_path),))
    before = torch.get_rng_state()
    clips = ClipViews(load_corpus(data), data, VIEWS, seed=0)
    next(iter(make_loader(clips, BatchPlan(2, 1, 0, 1), 0, 2, 0, pin_memory=False)))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_start_although_opencv_has_threads_already(tmp_path):
    write_corpus(tmp_path)
    code = f"""
import sys; sys.path.insert(0, ".")
from pathlib import Path
import cv2, numpy as np
from endofm.data.pretraining.dataset import ClipViews, DataConfig, load_corpus
from endofm.data.pretraining.loader import BatchPlan, make_loader
from tests.small import VIEWS
cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (0, 0), 5)
corpus = load_corpus(DataConfig(manifests=(Path({str(tmp_path / "manifest.csv")!r}),)))
clips = ClipViews(corpus, DataConfig(), VIEWS, seed=0)
batch = next(iter(make_loader(clips, BatchPlan(2, 1, 0, 1), 0, 1, 1, pin_memory=False)))
assert len(batch.names) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_missing_and_empty_files_are_found_before_the_start(tmp_path):
    manifest = write_corpus(tmp_path, num_clips=3)
    (tmp_path / "clip_0.mp4").unlink()
    (tmp_path / "clip_1.mp4").write_bytes(b"")
    found = dict(find_missing(load_corpus(DataConfig(manifests=(manifest,))).segments))
    assert set(found) == {"clip_0.mp4[0:12]", "clip_1.mp4[0:12]"}
    assert "does not exist" in found["clip_0.mp4[0:12]"]
    assert "no bytes" in found["clip_1.mp4[0:12]"]


def test_what_cannot_be_looked_at_or_is_no_file_is_found_before_the_start(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.mp4")
    long = "x" * 300 + ".mp4"
    (tmp_path / "clips.csv").write_text(f"path\npipe.mp4\n{long}\nlocked/a.mp4\n")
    segments = load_corpus(DataConfig(manifests=(tmp_path / "clips.csv",))).segments
    look = Path.stat

    def stat(path, **options):
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    found = dict(find_missing(segments))
    assert "is no file but a pipe" in found["pipe.mp4"]
    assert "can't be looked at (File name too long);" in found[long]
    assert "can't be looked at (Permission denied);" in found["locked/a.mp4"]


def test_a_corpus_without_rows_of_the_split_names_the_splits_there_are(tmp_path):
    manifest = write_corpus(tmp_path, num_clips=1)
    with pytest.raises(ManifestError, match=r"no row of the split 'train'.*\(empty\)"):
        load_corpus(DataConfig(manifests=(manifest,), split="train"))


@pytest.mark.parametrize(
    "changes",
    [{"weights": (1.0, 2.0)}, {"weights": (0.0,)}, {"workers": -1}, {"max_broken_share": 2.0},
     {"short_side_pixels": 4}],
)  # fmt: skip
def test_data_options_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(ConfigError, match=r"data\."):
        DataConfig(manifests=(Path("a.csv"),), **changes)


def test_a_run_without_manifests_is_told_how_to_make_one():
    with pytest.raises(ConfigError, match="endofm manifest"):
        load_corpus(DataConfig())
