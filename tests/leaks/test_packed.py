"""Checking and comparing corpora whose clips lie in tar shards."""

from dataclasses import replace

import pytest

from endofm.cli import main
from endofm.data.corpus.pack import pack
from endofm.data.leakage import read_leaks
from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.data.manifests.quarantine import quarantine_file, read_quarantine
from endofm.synthetic import render_clip
from tests.leaks.planting import mirror, write_h264


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Two clips to train on, of which one repeats the other, and a mirrored copy to test on."""
    folder = tmp_path_factory.mktemp("packed")
    frames = render_clip(0, "colon", False, 12, 64, 64).frames
    for name, shown in (("a", frames), ("b", frames), ("c", mirror(frames, None))):
        write_h264(folder / "clips" / f"{name}.mp4", shown, 18, 15)
    rows = [Segment(folder, f"clips/{name}.mp4", group=name, split="train") for name in "abc"]
    write_manifest(folder / "m.csv", [*rows[:2], replace(rows[2], split="test")])
    return folder


def names_of(manifest):
    return [segment.name for segment in read_manifest(manifest)]


def test_clips_in_shards_are_checked_and_compared_as_files_are(packed, tmp_path):
    manifest = pack(packed / "m.csv", tmp_path / "packed")
    options = ["--cache", str(tmp_path / "cache"), "--workers", "1"]
    main(["corpus", "check", str(manifest), *options])
    first, second, test = names_of(manifest)
    assert [(row.clip, row.fault) for row in read_quarantine(manifest)] == [(second, "duplicate")]
    main(["corpus", "leaks", str(manifest), "--out", str(tmp_path / "out"), *options])
    assert {(leak.clip, leak.against, leak.kind) for leak in read_leaks(manifest)} == {
        (first, test, "near"),
        (test, first, "near"),
    }
    assert "data:image/webp" in (tmp_path / "out/leaks.html").read_text(encoding="utf-8")
    main(["corpus", "report", str(manifest), "--out", str(tmp_path / "page.html"), *options])
    assert "data:image/webp" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_clips_in_shards_at_an_address_are_checked_too(packed, tmp_path):
    manifest = pack(packed / "m.csv", tmp_path / "packed", address=f"file://{tmp_path}/far")
    (tmp_path / "far").mkdir()
    (tmp_path / "packed/shards/000000.tar").rename(tmp_path / "far/000000.tar")
    options = ["--cache", str(tmp_path / "cache"), "--workers", "1"]
    main(["corpus", "check", str(manifest), *options])
    assert [row.fault for row in read_quarantine(manifest)] == ["duplicate"]


def test_a_shard_that_is_missing_is_told(packed, tmp_path):
    manifest = pack(packed / "m.csv", tmp_path / "packed")
    (tmp_path / "packed/shards/000000.tar").unlink()
    main(["corpus", "check", str(manifest), "--cache", str(tmp_path / "c"), "--workers", "1"])
    rows = read_quarantine(manifest)
    assert {row.fault for row in rows} == {"broken"} and quarantine_file(manifest).is_file()
    assert all("000000.tar" in row.reason for row in rows)
