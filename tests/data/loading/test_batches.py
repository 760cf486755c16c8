"""Workers that hang, die or can't read: real processes, and a decoder that does what it is told."""

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from endofm.data.labelled import clips as labelled_clips
from endofm.data.labelled.clips import EvaluationClips, Piece, TrainingClips
from endofm.data.labelled.samples import ClipSpec, LabelledConfig, join
from endofm.data.loading.batches import MAX_LOST, Batches
from endofm.data.manifests.manifest import read_manifest
from endofm.data.pretraining import dataset as module
from endofm.data.pretraining.dataset import ClipViews, Corpus, DataConfig, load_corpus
from endofm.data.pretraining.loader import BatchPlan, make_loader
from endofm.errors import RunError, VideoError
from tests.small import VIEWS, write_corpus

ROOT = Path(__file__).parents[3]
PLAN = BatchPlan(2, 2, 0, 1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), num_clips=8)


@pytest.fixture
def misbehave(monkeypatch):
    """Workers do `action(name of the clip)` before they decode; they inherit it when forked."""
    real, really_open = module.read_segment, labelled_clips.open_video

    def patch(action):
        def read(segment, *rest):
            action(segment.name)
            return real(segment, *rest)

        def opened(file):
            action(file.name)
            return really_open(file)

        monkeypatch.setattr(module, "read_segment", read)
        monkeypatch.setattr(labelled_clips, "open_video", opened)

    return patch


def clips_of(manifest):
    data = DataConfig(manifests=(manifest,), short_side_pixels=48)
    return ClipViews(load_corpus(data), data, VIEWS, seed=0)


def batches_of(manifest, workers=2, clip_seconds=15.0):
    """Eight micro-batches of two clips: two epochs."""
    clips, patience = clips_of(manifest), 4 * clip_seconds
    return make_loader(clips, PLAN, 0, 4, workers, False, patience_seconds=patience)


def rows_labelled(manifest):
    return tuple(replace(row, labels={"kind": "a"}) for row in read_manifest(manifest))


def read_all(batches):
    try:
        return list(batches)
    finally:
        batches.close()
        assert not multiprocessing.active_children()


def names_of(batches):
    return [name for batch in batches for name in batch.names]


def broken_in(batches):
    return {report for batch in batches for report in batch.broken}


def assert_same_pixels(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert one.names == other.names
        assert all(map(torch.equal, one.frames, other.frames))
        assert all(map(torch.equal, one.colors, other.colors))


def sleep_in_python():
    time.sleep(1000)


def sleep_in_c_and_keep_the_interpreter():
    ctypes.PyDLL(None).sleep(1000)


def on(clip, action):
    return lambda name: action() if clip in name else None


def die_of(number):
    faulthandler.disable()  # the worker's: pytest's would print a page about it
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "hang",
    [sleep_in_python, pytest.param(sleep_in_c_and_keep_the_interpreter, marks=pytest.mark.slow)],
)
def test_a_clip_that_hangs_the_decoder_is_named_and_replaced_by_the_fixed_rule(
    manifest, misbehave, hang
):
    misbehave(on("clip_2", hang))
    start = time.monotonic()
    found = read_all(batches_of(manifest, clip_seconds=2))
    assert 2 <= time.monotonic() - start < 60
    (broken,) = broken_in(found)
    assert broken.name == "clip_2.mp4[0:12]"
    assert "clip_2.mp4[0:12] was not decoded within 2 s" in broken.reason

    def refuse():
        raise VideoError("broken")

    misbehave(on("clip_2", refuse))  # as if it could not be decoded: the same clips instead
    assert_same_pixels(found, read_all(batches_of(manifest, workers=0)))


def test_a_slow_clip_within_its_time_stays(manifest, misbehave):
    misbehave(on("clip_2", lambda: time.sleep(0.8)))
    found = read_all(batches_of(manifest, clip_seconds=4))
    assert sum("clip_2" in name for name in names_of(found)) == 2 and not broken_in(found)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_killed_by_the_system_changes_no_batch(
    manifest, misbehave, tmp_path, caplog, number
):
    expected = read_all(batches_of(manifest, workers=0))

    def die_twice():
        flags = [tmp_path / "died", tmp_path / "died again"]
        for flag in flags:
            if not flag.exists():
                flag.touch()
                die_of(number)

    misbehave(on("clip_5", die_twice))
    found = read_all(batches_of(manifest))
    assert (tmp_path / "died again").exists() and not broken_in(found)
    assert_same_pixels(found, expected)
    told = "shared memory on" if number == signal.SIGBUS else "was killed on"
    assert f"{told} clip_5.mp4[0:12]" in caplog.text and "lower data.workers" in caplog.text.lower()


def test_workers_killed_at_any_moment_change_no_batch(manifest, misbehave):
    misbehave(lambda name: time.sleep(0.05))
    expected = read_all(batches_of(manifest, workers=0))
    batches, found = batches_of(manifest), []
    for number, batch in enumerate(batches):
        found.append(batch)
        if number % 2:
            for child in multiprocessing.active_children():
                child.kill()
    assert_same_pixels(found, expected)


def test_a_clip_that_crashes_the_decoder_twice_is_left_out(manifest, misbehave, caplog):
    misbehave(on("clip_2", lambda: die_of(signal.SIGSEGV)))
    found = read_all(batches_of(manifest))
    (broken,) = broken_in(found)
    assert "clip_2.mp4[0:12] crashes the decoder (SIGSEGV)" in broken.reason
    assert "is tried once more" in caplog.text and len(names_of(found)) == 16


def test_workers_that_are_always_killed_end_the_run_with_the_likely_cause(manifest, misbehave):
    misbehave(lambda name: die_of(signal.SIGKILL))
    with pytest.raises(RunError, match=rf"lost {2 * MAX_LOST} times.*killed on clip_\d.*memory"):
        read_all(batches_of(manifest))


def test_a_worker_killed_in_the_middle_of_a_message_is_replaced(tmp_path):
    flag = tmp_path / "died"

    class Big(module.Clips):
        def __getitem__(self, number):
            if number == 1 and not flag.exists():
                flag.touch()
                time.sleep(0.3)  # until the batch before fills the pipe
                die_of(signal.SIGKILL)
            return bytes(10_000_000)

    found = read_all(Batches(Big(), [[0], [1], [2]], 1, False, list))
    assert [len(item) for (item,) in found] == [10_000_000] * 3


def test_an_error_of_a_worker_comes_as_its_sentence_without_the_traceback(manifest, misbehave):
    def refuse(name):
        raise VideoError(f"{name} is not a video.")

    misbehave(refuse)
    with pytest.raises(VideoError) as caught:
        read_all(batches_of(manifest))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("None of 100 draws")


def test_a_mistake_in_the_code_of_a_worker_comes_with_its_traceback(manifest, misbehave):
    misbehave(lambda name: 1 / 0)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*1 / 0.*ZeroDivisionError"):
        read_all(batches_of(manifest))


def test_workers_do_not_run_ahead_without_end(manifest, misbehave, tmp_path):
    misbehave(lambda name: (tmp_path / f"{os.getpid()} {time.monotonic_ns()}").touch())
    batches = batches_of(manifest, workers=1)
    next(batches)
    time.sleep(1.0)
    assert len(list(tmp_path.iterdir())) == 6  # one batch taken and two ahead, of two clips
    batches.close()


def test_workers_and_threads_end_when_nobody_asks_any_more(manifest, misbehave):
    before = threading.active_count()
    misbehave(on("clip_2", sleep_in_python))
    batches = batches_of(manifest)
    next(batches)
    start = time.monotonic()
    del batches
    gc.collect()
    assert time.monotonic() - start < 5
    assert not multiprocessing.active_children() and threading.active_count() <= before


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_program_leaves_no_worker_behind_although_it_hangs(manifest, tmp_path, is_killed):
    code = f"""
import os, time; from pathlib import Path
from endofm.data.pretraining import dataset
from tests.data.loading.test_batches import batches_of
def hang(*rest):
    (Path({str(tmp_path)!r}) / str(os.getpid())).touch()
    time.sleep(1000)
dataset.read_segment = hang
batches = batches_of(Path({str(manifest)!r}))
batches._start()
while len(list(Path({str(tmp_path)!r}).iterdir())) < 2:
    time.sleep(0.1)
if {is_killed}:
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, env=environment)
    assert ended.returncode == (-9 if is_killed else 0)
    workers = [file.name for file in tmp_path.iterdir()]
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(workers) == 2


def test_a_clip_that_hangs_is_replaced_in_fine_tuning_too(manifest, misbehave):
    misbehave(on("clip_2", sleep_in_python))
    clip_spec = ClipSpec("classification", ("a",), LabelledConfig(label="kind"), 2, 32)
    clips = TrainingClips(Corpus((rows_labelled(manifest),), (1.0,)), clip_spec, 0)
    found = read_all(make_loader(clips, PLAN, 0, 2, 1, False, join, patience_seconds=8))
    (broken,) = broken_in(found)
    assert broken.name == "clip_2.mp4[0:12]" and "not decoded within 2 s" in broken.reason
    assert len(names_of(found)) == 8 and broken.name not in names_of(found)


def test_a_clip_that_hangs_is_told_when_clips_are_judged(manifest, misbehave):
    misbehave(on("clip_2", sleep_in_python))
    clip_spec = ClipSpec("classification", ("a",), LabelledConfig(label="kind"), 2, 32)
    pieces = [Piece(row) for row in rows_labelled(manifest)]
    found = read_all(
        Batches(EvaluationClips(pieces, clip_spec), [[0, 1, 2], [3]], 1, False, join, 8)
    )
    assert names_of(found) == [f"clip_{n}.mp4[0:12]" for n in (0, 1, 3)]
    (broken,) = broken_in(found)
    assert broken.name == "clip_2.mp4[0:12]" and "not decoded within 2 s" in broken.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_come_in_page_locked_memory(manifest, workers):
    found = read_all(make_loader(clips_of(manifest), PLAN, 0, 2, workers, pin_memory=True))
    assert all(view.is_pinned() for batch in found for view in [*batch.frames, *batch.colors])
    assert_same_pixels(found, read_all(make_loader(clips_of(manifest), PLAN, 0, 2, 0, False)))
