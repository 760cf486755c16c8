"""Reading the clips of a split: divided among processes, stopped between batches, hung once."""

import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from endofm.data.labelled import clips as labelled_clips
from endofm.data.labelled.clips import EvaluationClips, Piece
from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.data.manifests.manifest import read_manifest
from endofm.tasks.finetuning.evaluating import Reader
from tests.labelled import write_labelled

SHOWING = ClipSpec("classification", ("normal", "polyp"), LabelledConfig(label="polyp"), 2, 32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return read_manifest(write_labelled(tmp_path_factory.mktemp("corpus"), 7))


def rank_of(rank, world):
    return SimpleNamespace(num_processes=world, process_index=rank, device=torch.device("cpu"))


@pytest.mark.parametrize(("num", "world", "size"), [(7, 2, 1), (7, 2, 2), (5, 3, 2), (1, 3, 4)])
def test_processes_with_unequal_shares_are_asked_equally_often(rows, num, world, size):
    asked, seen = [], []
    for rank in range(world):
        calls = []
        reader = Reader(
            rank_of(rank, world), size, 0, before_batch=lambda calls=calls: calls.append(1)
        )
        clips = EvaluationClips([Piece(row) for row in rows[:num]], SHOWING)
        seen += [number for batch in reader.read(clips) for number in batch.numbers]
        asked.append(len(calls))
    assert len(set(asked)) == 1 and asked[0] > 0
    assert sorted(seen) == list(range(num))


def test_a_stop_between_batches_ends_the_workers(rows):
    asked = []

    def stop_at_the_second():
        asked.append(1)
        if len(asked) == 2:
            raise SystemExit(143)

    reader = Reader(Accelerator(cpu=True), 2, 1, before_batch=stop_at_the_second)
    batches = reader.read(EvaluationClips([Piece(row) for row in rows], SHOWING))
    assert next(batches).numbers == [0, 1]
    with pytest.raises(SystemExit):
        next(batches)
    assert not multiprocessing.active_children()


def test_a_clip_that_hangs_is_waited_for_once_and_not_at_every_validation(
    rows, tmp_path, monkeypatch
):
    really_open, log = labelled_clips.open_video, tmp_path / "opened"

    def opened(file):
        with log.open("a") as told:
            told.write(f"{file.name} {os.getpid()}\n")
        if file.name == "clip_02":
            time.sleep(1000)
        return really_open(file)

    monkeypatch.setattr(labelled_clips, "open_video", opened)
    reader = Reader(Accelerator(cpu=True), 2, 1, patience_seconds=4)
    for _ in range(2):
        clips = EvaluationClips([Piece(row) for row in rows], SHOWING)
        found = list(reader.read(clips))
        (broken,) = [one for batch in found for one in batch.broken]
        assert broken.name == "clip_02[0:4]" and "not decoded within 1 s" in broken.reason
        assert [n for batch in found for n in batch.numbers] == [0, 1, 3, 4, 5, 6]
    assert log.read_text().count("clip_02") == 1
