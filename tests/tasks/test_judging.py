"""Reading the clips of a split: a hung clip is waited for once."""

import os
import time

import pytest
from accelerate import Accelerator

from endofm.data import labelled_clips
from endofm.data.labelled import LabelledConfig, Showing
from endofm.data.labelled_clips import JudgedClips, Piece
from endofm.data.manifest import read_manifest
from endofm.tasks.judging import Reader
from tests.labelled import write_labelled

SHOWING = Showing("classification", ("normal", "polyp"), LabelledConfig(label="polyp"), 2, 32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return read_manifest(write_labelled(tmp_path_factory.mktemp("corpus"), 7))


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
        clips = JudgedClips([Piece(row) for row in rows], SHOWING)
        found = list(reader.read(clips))
        (broken,) = [one for batch in found for one in batch.broken]
        assert broken.name == "clip_02[0:4]" and "not decoded within 1 s" in broken.reason
        assert [n for batch in found for n in batch.numbers] == [0, 1, 3, 4, 5, 6]
    assert log.read_text().count("clip_02") == 1
