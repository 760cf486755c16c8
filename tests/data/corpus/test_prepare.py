import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from endofm.data.corpus.merge import merge
from endofm.data.corpus.prepare import Shard, prepare
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import open_video
from endofm.data.video.pyav import PyAVReader
from endofm.errors import CorpusError, RunError
from tests.data.corpus.originals import own, picture, write_tree, zipped
from tests.make import OPEN_GOP, frame_indices, numbered_frame, overwrite, write_frames, write_video


def shown(segment, reader="pyav"):
    with open_video(segment.file, reader) as video:
        return frame_indices(video.read(range(len(video))))


def files(folder):
    return {
        p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and "log" not in p.name
    }


def test_clips_hold_the_frames_of_the_source_for_every_reader(tmp_path):
    write_video(tmp_path / "in/day 1/a.mp4", 75, size=(90, 121 * 2), b_frames=2)
    summary = prepare(own(tmp_path / "in", tmp_path / "out", options={"short_side_pixels": 64}))
    segments = read_manifest(summary.manifest)
    assert [s.path for s in segments] == [
        "clips/day 1/a.mp4/000000.mp4",
        "clips/day 1/a.mp4/000030.mp4",
    ]
    for reader in ("pyav", "decord", "opencv"):
        assert shown(segments[0], reader) == list(range(30))
        assert shown(segments[1], reader) == list(range(30, 75))  # the remainder too
    assert {s.group for s in segments} == {"own/day 1/a.mp4"} and summary.num_frames == 75
    with PyAVReader(segments[1].file) as video:
        table = video.table
        assert video.size == (64, 172) and video.fps == 30
        assert not table.is_open_gop and not table.has_edit_list
        steps = np.diff(table.times)
        assert (steps == steps[0]).all()
        assert np.searchsorted(table.times, table.keys).tolist() == [0, 12, 24, 36]


def test_clips_are_cheap_to_decode(tmp_path):
    write_video(tmp_path / "in/a.mp4", 36, b_frames=3)
    (segment,) = read_manifest(prepare(own(tmp_path / "in", tmp_path / "out")).manifest)
    assert b"cabac=0" in segment.file.read_bytes()  # among the settings that libx264 leaves there
    with av.open(str(segment.file)) as container:
        is_b = [frame.pict_type == PictureType.B for frame in container.decode(video=0)]
    with PyAVReader(segment.file) as video:
        assert sum(is_b) > 10
        assert video.table.sparing.is_spare.tolist() == is_b


def test_pictures_come_in_natural_order_at_the_given_rate(tmp_path):
    frames = {f"case/img_{i}.jpg": picture(i, ".jpg") for i in range(12)}
    job = own(write_tree(tmp_path / "in", frames), tmp_path / "out", options={"picture_fps": 6.0})
    segments = read_manifest(prepare(job).manifest)
    assert [shown(s) for s in segments] == [list(range(6)), list(range(6, 12))]


@pytest.mark.parametrize("codec", ["hevc", "png", "jpeg"])
def test_other_codecs_hold_the_same_frames(tmp_path, codec):
    write_video(tmp_path / "in/a.mp4", 32, size=(64, 64))
    job = own(tmp_path / "in", tmp_path / "out", options={"codec": codec})
    (segment,) = read_manifest(prepare(job).manifest)
    assert shown(segment) == list(range(32))


def test_a_copy_is_cut_at_key_frames_without_a_bit_changed(tmp_path):
    video = write_video(tmp_path / "in/a.mp4", 95, gop=10, b_frames=2)
    job = own(tmp_path / "in", tmp_path / "out", options={"codec": "copy"})
    segments = read_manifest(prepare(job).manifest)
    assert [s.num_frames for s in segments] == [30, 30, 35]
    with open_video(video) as source:
        whole = source.read(range(95))
    parts = []
    for segment in segments:
        with open_video(segment.file) as cut:
            parts.append(cut.read(range(len(cut))))
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_video_that_can_not_be_copied_exactly_is_left_out(tmp_path):
    write_video(tmp_path / "in/a.mp4", 60, options=OPEN_GOP)
    job = own(tmp_path / "in", tmp_path / "out", options={"codec": "copy"})
    with pytest.raises(CorpusError, match=r"can't be cut exactly without encoding.*--codec h264"):
        prepare(job)


def test_a_finished_corpus_stays_as_it_is_and_a_lost_clip_comes_back(tmp_path):
    write_video(tmp_path / "in/a.mp4", 60)
    job = own(tmp_path / "in", tmp_path / "out")
    assert prepare(job).num_written == 1
    before = files(tmp_path / "out/clips")
    assert prepare(job).num_written == 0 and files(tmp_path / "out/clips") == before
    lost = tmp_path / "out/clips/a.mp4/000030.mp4"
    data = lost.read_bytes()
    lost.unlink()
    prepare(job)
    assert lost.read_bytes() == data  # coding is repeatable
    assert files(tmp_path / "out/clips").keys() == before.keys()


def test_checksums_are_those_of_the_files(tmp_path):
    write_video(tmp_path / "in/a.mp4", 40)
    prepare(own(tmp_path / "in", tmp_path / "out"))
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.txt"], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count(": OK") == 1


def test_a_source_that_changed_is_prepared_anew(tmp_path):
    write_video(tmp_path / "in/a.mp4", 60)
    job = own(tmp_path / "in", tmp_path / "out")
    prepare(job)
    write_video(tmp_path / "in/a.mp4", 33, first=7)
    (segment,) = read_manifest(prepare(job).manifest)
    assert shown(segment) == list(range(7, 40))


def test_other_options_and_other_folders_are_refused(tmp_path):
    write_video(tmp_path / "in/a.mp4", 10)
    job = own(tmp_path / "in", tmp_path / "out")
    prepare(job)
    with pytest.raises(CorpusError, match=r"prepared otherwise \(crf 18 instead of 30\)"):
        prepare(own(tmp_path / "in", tmp_path / "out", options={"crf": 30}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(CorpusError, match="holds other files"):
        prepare(replace(job, out=tmp_path / "mine"))


def test_a_broken_video_is_told_and_many_stop_the_run(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"in/{number}.mp4", 10)
    (tmp_path / "in/bad.mp4").write_bytes(b"no video")
    job = own(tmp_path / "in", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"1 of 4 sources can't be used, the first: .*bad.mp4 is"):
        prepare(job)
    summary = prepare(replace(job, max_left_out_share=0.25))
    assert summary.num_clips == 3 and summary.num_written == 1  # it is tried again
    assert "left out: bad.mp4: " in (tmp_path / "out/log.txt").read_text()
    write_video(tmp_path / "in/bad.mp4", 10)
    assert prepare(job).num_clips == 4


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"in/{number}.mp4", 20, first=100 * number)
    job = own(tmp_path / "in", tmp_path / "one")
    prepare(job)
    prepare(replace(job, out=tmp_path / "two", workers=2))
    for name in ("manifest.csv", "checksums.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def is_whole_after_a_kill(tmp_path, job, written):
    """What a killed run left is kept and completed to what an undisturbed one writes."""
    whole = {path: time for path, time in written.items() if path.suffix == ".mp4"}
    assert 2 <= len(whole) < 30 and not (job.out / "manifest.csv").exists()
    prepare(job)
    assert whole.items() <= files(job.out / "clips").items()
    segments = read_manifest(job.out / "manifest.csv")
    assert [i for s in segments for i in shown(s)] == 2 * list(range(450))
    assert not list(job.out.rglob("*.part"))
    prepare(replace(job, out=tmp_path / "other"))
    for name in ("manifest.csv", "checksums.txt"):
        assert (job.out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def two_videos(tmp_path):
    for number in range(2):
        write_video(tmp_path / f"in/{number}.mp4", 30 * 15)
    return own(tmp_path / "in", tmp_path / "out")


def wait_for_clips(job, is_running):
    while len(list(job.out.glob("clips/*/*.mp4"))) < 2 and is_running():
        time.sleep(0.005)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to spare another start of Python")
def test_a_killed_run_is_taken_up_and_nothing_half_written_counts(tmp_path):
    job = two_videos(tmp_path)
    run = multiprocessing.get_context("fork").Process(target=prepare, args=(job,))
    run.start()
    wait_for_clips(job, run.is_alive)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    is_whole_after_a_kill(tmp_path, job, files(job.out / "clips"))


def children(parent):
    """Processes that this one started."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(file.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(file.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_of_a_killed_command_end_and_it_is_taken_up(tmp_path):
    job = two_videos(tmp_path)
    words = ["corpus", "prepare", "--dataset", "own_folder", "--source", job.source]
    words += ["--out", job.out, "--clip-seconds", "1", "--workers", "2"]
    command = [sys.executable, "-m", "endofm", *map(str, words)]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)
    wait_for_clips(job, lambda: run.poll() is None)
    workers = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)  # they see that they are alone
    is_whole_after_a_kill(tmp_path, job, files(job.out / "clips"))


def test_two_runs_at_once_are_refused(tmp_path):
    write_video(tmp_path / "in/a.mp4", 10)
    job = own(tmp_path / "in", tmp_path / "out")
    code = (
        "import sys; from pathlib import Path; from endofm.data.corpus.records import Records\n"
        "with Records(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "out/records/part.jsonl")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        (tmp_path / "out/plan.json").write_text("{}")
        with pytest.raises(RunError, match="Another run is writing"):
            prepare(job)
        other.stdin.close()
    assert prepare(job).num_clips == 1


def test_a_record_that_was_cut_off_is_made_again(tmp_path):
    for number in range(2):
        write_video(tmp_path / f"in/{number}.mp4", 10)
    job = own(tmp_path / "in", tmp_path / "out")
    prepare(job)
    records = tmp_path / "out/records/part.jsonl"
    records.write_bytes(records.read_bytes()[:-9])
    assert prepare(job).num_written == 1
    assert all(json.loads(line) for line in records.read_text().splitlines())


def test_shards_merge_to_what_one_run_writes(tmp_path):
    for number in range(5):
        write_video(tmp_path / f"in/{number}.mp4", 12)
    whole, parts = (
        own(tmp_path / "in", tmp_path / "whole"),
        own(tmp_path / "in", tmp_path / "parts"),
    )
    prepare(whole)
    assert prepare(replace(parts, shard=Shard(2, 2))).manifest is None
    with pytest.raises(CorpusError, match=r"not finished \(0.mp4 is not prepared\).*--shard 1/2"):
        merge(parts.out)
    prepare(replace(parts, shard=Shard(1, 2)))
    manifest, left_out = merge(parts.out)
    assert not left_out
    assert manifest.read_bytes() == (whole.out / "manifest.csv").read_bytes()
    clip = parts.out / "clips/1.mp4/000000.mp4"
    overwrite(clip, 0.5)
    with pytest.raises(CorpusError, match=r"000000.mp4 was damaged and is removed.*--shard 2/2"):
        merge(parts.out)
    prepare(replace(parts, shard=Shard(2, 2)))
    assert merge(parts.out)[0] == manifest
    with pytest.raises(CorpusError, match="shards 2 instead of 3"):
        prepare(replace(parts, shard=Shard(1, 3)))


def test_shards_must_read_the_same_download(tmp_path):
    write_video(tmp_path / "in/0.mp4", 12)
    job = own(tmp_path / "in", tmp_path / "out")
    prepare(replace(job, shard=Shard(1, 2)))
    write_video(tmp_path / "in/1.mp4", 12)
    with pytest.raises(CorpusError, match="2 sources, but another shard found 1"):
        prepare(replace(job, shard=Shard(2, 2)))


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    write_video(tmp_path / "in/a.mp4", 60)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("endofm.data.corpus.space.shutil.disk_usage", lambda path: usage)
    with pytest.raises(CorpusError, match=r"0.0 GB free, but about .* are needed for 1 sources"):
        prepare(own(tmp_path / "in", tmp_path / "out"))
    assert not (tmp_path / "out/clips").exists()


def test_an_archive_gives_the_same_clips_as_its_folder(tmp_path):
    write_video(tmp_path / "in/a.mp4", 20)
    write_frames(tmp_path / "in/b", [numbered_frame(i) for i in range(4)])
    archive = zipped(tmp_path / "in", tmp_path / "in.zip")
    prepare(own(tmp_path / "in", tmp_path / "one"))
    prepare(own(archive, tmp_path / "two"))
    for name in ("manifest.csv", "checksums.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / "two/unpacked").exists()
