import json
import tarfile
from pathlib import Path

import fsspec
import pytest
import torch

from endofm.cli import main
from endofm.data.corpus.pack import pack
from endofm.data.corpus.prepare import Job, prepare
from endofm.data.corpus.work import ClipOptions
from endofm.data.manifests.manifest import read_manifest
from endofm.data.pretraining.dataset import ClipViews, DataConfig, find_missing, load_corpus
from endofm.data.pretraining.loader import BatchPlan, make_loader
from endofm.data.video import open_video
from endofm.errors import CorpusError, VideoError
from tests.make import frame_indices, write_video
from tests.small import VIEWS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six clips of three videos, prepared."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        write_video(folder / f"in/day {number}/v.1.mp4", 24, size=(64, 64), first=100 * number)
    options = ClipOptions(clip_seconds=0.4)
    return prepare(Job("own_folder", folder / "in", folder / "out", options)).manifest


def shown(segment, reader="pyav"):
    with open_video(segment.file, reader) as video:
        return frame_indices(frame for _, frame in video.stream(range(len(video))))


def test_shards_hold_the_clips_and_their_labels_as_webdataset_has_them(corpus, tmp_path):
    manifest = pack(corpus, tmp_path / "packed")
    files, packed = read_manifest(corpus), read_manifest(manifest)
    assert [s.group for s in packed] == [s.group for s in files] and len(packed) == 6
    with tarfile.open(tmp_path / "packed/shards/000000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile(names[1]))
    assert all(name.count(".") == 1 for name in names) and len(names) == 12
    assert [name.split(".")[0] for name in names[::2]] == [n.split(".")[0] for n in names[1::2]]
    assert about["path"] == files[0].path and about["num_frames"] == 12
    for reader in ("pyav", "decord", "opencv"):
        assert [shown(s, reader) for s in packed] == [shown(s) for s in files]
    assert not find_missing(packed)


def test_packing_again_changes_nothing_and_another_corpus_is_refused(corpus, tmp_path):
    pack(corpus, tmp_path / "packed")
    tar = tmp_path / "packed/shards/000000.tar"
    before = tar.stat().st_mtime_ns
    pack(corpus, tmp_path / "packed")
    assert tar.stat().st_mtime_ns == before
    with pytest.raises(CorpusError, match="holds another corpus"):
        pack(corpus, tmp_path / "packed", shard_megabytes=1)
    write_video(tmp_path / "a.avi", 4)
    (tmp_path / "m.csv").write_text("path\na.avi\n")
    with pytest.raises(CorpusError, match=r"a.avi is no mp4 file"):
        pack(tmp_path / "m.csv", tmp_path / "other")


def batches(manifest, first, stop, workers):
    data = DataConfig(manifests=(manifest,), workers=workers, short_side_pixels=48)
    views = ClipViews(load_corpus(data), data, VIEWS, seed=3)
    plan = BatchPlan(batch_size=2, accumulate=1, rank=0, world=1)
    return list(make_loader(views, plan, first, stop, workers, pin_memory=False))


def test_training_reads_shards_at_an_address_in_its_shuffled_order_and_goes_on(corpus, tmp_path):
    manifest = pack(corpus, tmp_path / "packed", address=f"file://{tmp_path}/far/shards")
    (tmp_path / "far/shards").mkdir(parents=True)
    for tar in (tmp_path / "packed/shards").glob("*.tar"):
        tar.rename(tmp_path / "far/shards" / tar.name)
    assert not find_missing(read_manifest(manifest))
    whole = batches(manifest, 0, 6, workers=1)
    assert not any(batch.broken for batch in whole)
    first, second = ([n for b in half for n in b.names] for half in (whole[:3], whole[3:]))
    assert sorted(first) == sorted(second) and first != second  # every clip once an epoch, shuffled
    resumed = batches(manifest, 4, 6, workers=0)
    for one, other in zip(whole[4:], resumed, strict=True):
        assert one.names == other.names
        assert all(map(torch.equal, one.frames, other.frames))


def test_an_object_store_is_asked_for_a_clip_at_a_time(corpus, tmp_path, monkeypatch):
    manifest = pack(corpus, tmp_path / "packed", address="memory://bucket/shards")
    store = fsspec.filesystem("memory")
    for tar in (tmp_path / "packed/shards").glob("*.tar"):
        store.pipe(f"/bucket/shards/{tar.name}", tar.read_bytes())
        tar.unlink()
    asked = []
    fetch = type(store).cat_file
    monkeypatch.setattr(
        type(store),
        "cat_file",
        lambda self, path, start=None, end=None, **rest: (
            asked.append(end - start) or fetch(self, path, start, end, **rest)
        ),
    )
    segments = read_manifest(manifest)
    assert shown(segments[4]) == list(range(200, 212))
    assert asked == [read_manifest(corpus)[4].file.stat().st_size]
    store.rm("/bucket", recursive=True)
    with pytest.raises(VideoError, match=r"memory://bucket/shards/000000.tar/.* can't be fetched"):
        shown(segments[0])


def test_faults_of_shards_are_named(corpus, tmp_path):
    manifest = pack(corpus, tmp_path / "packed")
    segments, shards = read_manifest(manifest), tmp_path / "packed/shards"
    tar = shards / "000000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:2000])
    with pytest.raises(VideoError, match="ends before"):
        shown(segments[0])
    start = json.loads((shards / "index.json").read_text())["000000.tar"]
    place = start[Path(segments[0].path).name][0]
    tar.write_bytes(data[:place] + bytes(3000) + data[place + 3000 :])
    with pytest.raises(VideoError, match=r"000000.tar/day_0_v_1_mp4_000000-\w+.mp4 is"):
        shown(segments[0])
    tar.unlink()
    assert "000000.tar does not exist; copy the shard" in find_missing(segments)[0].reason
    (shards / "index.json").unlink()
    assert "index.json does not exist" in find_missing(segments)[0].reason


def test_the_commands_say_what_to_do_next(corpus, tmp_path, capsys):
    main(["corpus", "pack", str(corpus), str(tmp_path / "p"), "--address", "s3://b/c"])
    said = capsys.readouterr().out
    assert "--data.manifests" in said and "Copy" in said and "s3://b/c" in said
    main(["corpus", "speed", str(tmp_path / "p/manifest.csv"), "--seconds", "0.05"])
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()] == ["pyav", "decord", "opencv"]
