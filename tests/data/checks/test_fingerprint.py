from dataclasses import replace

import numpy as np
import pytest

from endofm.data.checks.fingerprint import fingerprint
from endofm.data.checks.fingerprint_store import Store, fingerprint_all
from endofm.data.manifests.manifest import Segment
from endofm.errors import RunError, VideoError
from tests.make import numbered_frame, overwrite, write_frames, write_video


def clip(folder, num_frames=12, name="a.mp4", **options):
    write_video(folder / name, num_frames, (48, 64), **options)
    return Segment(folder, name, 0, num_frames)


def test_a_fingerprint_tells_what_decoding_tells(tmp_path):
    told = fingerprint(clip(tmp_path, 32, fps=30))
    assert (told.num_frames, told.fps, told.size) == (32, 30, (48, 64))
    assert told.thumb_step == 4 and told.thumbs.shape == (8, 32, 32)
    assert told.frozen_share == 0 and told.dark_share == 0


def test_frames_of_a_folder_are_all_pictured(tmp_path):
    write_frames(tmp_path / "f", (numbered_frame(i) for i in range(5)))
    assert len(fingerprint(Segment(tmp_path, "f")).thumbs) == 5


def test_content_is_equal_for_equal_frames_only(tmp_path):
    frames = [numbered_frame(index) for index in range(6)]
    write_frames(tmp_path / "a", frames)
    write_frames(tmp_path / "b", frames, "picture_{}.bmp")
    changed = [*frames[:5], frames[5].copy()]
    changed[5][0, 0, 0] ^= 1
    write_frames(tmp_path / "c", changed)
    write_frames(tmp_path / "d", [frames[1], frames[0], *frames[2:]])
    a, b, c, d = (fingerprint(Segment(tmp_path, name)).content for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_black_and_frozen_frames_are_counted(tmp_path):
    black = np.zeros((96, 128, 3), np.uint8)
    write_frames(tmp_path / "f", [black] * 3 + [numbered_frame(5)] * 3)
    told = fingerprint(Segment(tmp_path, "f"))
    assert told.dark_share == 0.5 and told.frozen_share == pytest.approx(4 / 5)


def test_a_clip_shorter_than_promised_has_no_fingerprint(tmp_path):
    short = replace(clip(tmp_path, 6), stop_frame=9)
    with pytest.raises(VideoError, match="has 6 frames, but the manifest promises 9"):
        fingerprint(short)


def test_a_store_gives_back_what_was_made_without_decoding(tmp_path, monkeypatch):
    segment, store = clip(tmp_path), Store(tmp_path / "store")
    made = store.make(segment)
    monkeypatch.setattr("endofm.data.checks.fingerprint_store.fingerprint", None)
    again = Store(tmp_path / "store").make(segment)
    assert np.array_equal(again.thumbs, made.thumbs)
    for name in ("content", "num_frames", "fps", "size", "thumb_step", "ordering"):
        assert getattr(again, name) == getattr(made, name)


def test_a_changed_file_and_another_stretch_are_decoded_again(tmp_path):
    segment, store = clip(tmp_path), Store(tmp_path / "store")
    store.make(segment)
    assert store.load(replace(segment, stop_frame=6)) is None
    clip(tmp_path, 14)
    assert store.load(segment) is None
    write_frames(tmp_path / "f", [numbered_frame(1)] * 2)
    folder = Segment(tmp_path, "f")
    store.make(folder)
    write_frames(tmp_path / "f", [numbered_frame(1)] * 3)
    assert store.load(folder) is None


def test_half_a_fingerprint_counts_for_nothing(tmp_path):
    segment, store = clip(tmp_path), Store(tmp_path / "store")
    store.make(segment)
    file = store.file(segment)
    file.write_bytes(file.read_bytes()[:200])
    assert store.load(segment) is None and store.make(segment).num_frames == 12


def test_broken_clips_are_named_and_the_others_made(tmp_path):
    whole, broken = clip(tmp_path), clip(tmp_path, name="b.mp4", num_frames=30)
    overwrite(tmp_path / "b.mp4", 0.3, 2000)
    gone, store = Segment(tmp_path, "gone.mp4"), Store(tmp_path / "store")
    reasons = fingerprint_all([gone, broken, whole], store)
    assert set(reasons) == {0, 1} and "gone.mp4" in reasons[0] and "b.mp4" in reasons[1]
    assert store.load(whole) is not None


def test_a_store_that_can_not_be_written_is_told(tmp_path):
    segment = clip(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="give another --cache"):
        Store(tmp_path / "file").make(segment)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path):
    segments = []
    for number in range(70):
        write_frames(tmp_path / f"{number}", (numbered_frame(number + i) for i in range(3)))
        segments.append(Segment(tmp_path, f"{number}"))
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert fingerprint_all(segments, one, 1) == fingerprint_all(segments, two, 2) == {}
    for segment in segments:
        assert one.load(segment).content == two.load(segment).content
