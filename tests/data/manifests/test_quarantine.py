import numpy as np
import pytest

from endofm.data.checks.fingerprint_store import Store, fingerprint_all
from endofm.data.checks.quality import find_faults
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.manifests.quarantine import (
    Quarantined,
    quarantine_file,
    read_quarantine,
    without_quarantined,
    write_quarantine,
)
from endofm.data.pretraining.dataset import DataConfig, load_corpus
from endofm.errors import ManifestError
from tests.make import numbered_frame, overwrite, write_frames, write_video
from tests.small import write_corpus


def faults_of(segments, folder, **options):
    store = Store(folder / "store")
    broken = fingerprint_all(segments, store)
    return {row.clip: row for row in find_faults(segments, store, broken, **options)}


def test_each_fault_is_named(tmp_path):
    def folder(name, frames):
        write_frames(tmp_path / name, frames)
        return Segment(tmp_path, name)

    frames = [numbered_frame(index) for index in range(12)]
    write_video(tmp_path / "torn.mp4", 30, (48, 64))
    overwrite(tmp_path / "torn.mp4", 0.3, 2000)
    write_video(tmp_path / "promise.mp4", 9, (48, 64))
    slide = [np.roll(numbered_frame(777, (96, 128)), 3 * step, 1) for step in range(30)]
    names = sorted(range(1, 31), key=str)
    segments = [
        folder("good", frames),
        folder("again", frames),
        folder("black", [np.zeros((48, 64, 3), np.uint8)] * 4),
        folder("frozen", frames[:1] * 8),
        folder("single", frames[:1]),
        folder("sorted", [slide[name - 1] for name in names]),
        Segment(tmp_path, "torn.mp4", 0, 30),
        Segment(tmp_path, "promise.mp4", 0, 12),
    ]
    faults = faults_of(segments, tmp_path)
    assert {clip: row.fault for clip, row in faults.items()} == {
        "again": "duplicate", "black": "black", "frozen": "frozen", "single": "short",
        "sorted": "order", "torn.mp4[0:30]": "broken", "promise.mp4[0:12]": "broken",
    }  # fmt: skip
    assert faults["again"].reason == "shows exactly what good shows"
    assert "9 frames, but the manifest promises 12" in faults["promise.mp4[0:12]"].reason
    assert "sorted as text" in faults["sorted"].reason
    assert "good" in faults_of(segments[:1], tmp_path, min_frames=13)


def test_training_leaves_out_what_the_list_names(tmp_path):
    manifest = write_corpus(tmp_path, num_clips=4)
    names = [segment.name for segment in read_manifest(manifest)]
    rows = [Quarantined(names[1], "black", "is black"), Quarantined("gone.mp4", "broken", "?")]
    write_quarantine(quarantine_file(manifest), rows)
    corpus = load_corpus(DataConfig(manifests=(manifest,)))
    assert [segment.name for segment in corpus.segments] == [names[0], *names[2:]]
    assert corpus.num_quarantined == 1
    quarantine_file(manifest).unlink()
    whole = load_corpus(DataConfig(manifests=(manifest,)))
    assert whole.num_quarantined == 0 and whole.fingerprint != corpus.fingerprint


def test_a_manifest_of_quarantined_clips_only_is_refused(tmp_path):
    manifest = write_corpus(tmp_path, num_clips=2)
    rows = [Quarantined(one.name, "black", "is black") for one in read_manifest(manifest)]
    write_quarantine(quarantine_file(manifest), rows)
    with pytest.raises(ManifestError, match=r"All 2 clips .* are in quarantine"):
        load_corpus(DataConfig(manifests=(manifest,)))


def test_a_list_comes_back_as_written(tmp_path):
    manifest = tmp_path / "clips.csv"
    rows = [Quarantined("a b, c.mp4[0:9]", "broken", 'says "no", twice\nand again')]
    write_quarantine(quarantine_file(manifest), rows)
    assert read_quarantine(manifest) == rows
    segments = [Segment(tmp_path, "a b, c.mp4", 0, 9), Segment(tmp_path, "d.mp4")]
    assert without_quarantined(manifest, segments) == ([segments[1]], rows)
    assert read_quarantine(tmp_path / "other.csv") == []


@pytest.mark.parametrize("text", ["", "clip,reason\na,b\n", "clip,fault,reason\na\n"])
def test_a_malformed_list_is_refused_with_its_name(tmp_path, text):
    quarantine_file(tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"clips\.quarantine\.csv"):
        read_quarantine(tmp_path / "clips.csv")
