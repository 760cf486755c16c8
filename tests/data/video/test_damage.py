import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from endofm.data.video import open_video, timetable
from endofm.data.video.base import check_file
from endofm.errors import VideoError
from tests.make import copy_video, frame_indices, overwrite, write_sound, write_video
from tests.read import READERS, read_all, refusal


@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "mpeg4"])
def test_a_stream_that_begins_within_a_group_is_read_from_its_first_key_frame(
    codec: str, length: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if length == "long":
        request.getfixturevalue("as_long")
    path = write_video(tmp_path / "v.ts", codec=codec)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: places[0]] + data[places[4] :])
    assert frame_indices(read_all(path)) == list(range(10, 30))


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    for reader in READERS:
        assert "does not exist" in refusal(tmp_path / "absent.mp4", reader)
        assert "0 bytes" in refusal(tmp_path / "empty.mp4", reader)
        assert "not a video" in refusal(tmp_path / "text.mp4", reader)
        assert "no video, only sound" in refusal(write_sound(tmp_path / "sound.mp4"), reader)


@pytest.mark.parametrize("reader", READERS)
def test_what_lies_there_but_is_no_file_is_not_said_to_be_absent(
    reader: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is no file but a pipe" in refusal(tmp_path / "pipe.mp4", reader)
    with pytest.raises(VideoError, match="is no file but a folder"):
        check_file(tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".mp4", ".nii.gz"])
def test_a_path_that_cannot_be_looked_at_is_refused(
    reader: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "(File name too long); correct" in refusal(tmp_path / ("x" * 300 + suffix), reader)
    assert "(embedded null byte); correct" in refusal(tmp_path / f"a\0{suffix}", reader)

    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", locked)
    told = refusal(tmp_path / f"v{suffix}", reader)
    assert "can't be looked at (Permission denied); correct its name or the perm" in told


def test_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert "FFmpeg does not know" in refusal(path)


@pytest.mark.parametrize("reader", READERS)
def test_truncated_files_are_refused(reader: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    early = copy_video(source, tmp_path / "early.mp4", movflags="faststart")
    for path in (source, early):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "index is missing" in refusal(source, reader)
    assert "of the 30 frames in its index" in refusal(early, reader)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mpg", "avi"])
def test_truncated_streams_give_right_frames_or_an_error(suffix: str, tmp_path: Path) -> None:
    codec = "mpeg2video" if suffix == "mpg" else "libx264"
    path = write_video(tmp_path / f"v.{suffix}", codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    try:
        indices = frame_indices(read_all(path))
    except VideoError as error:
        assert "damaged" in str(error)
    else:
        assert 5 < len(indices) < 30 and indices == list(range(len(indices)))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_damage_in_the_middle_is_refused(reader: str, codec: str, tmp_path: Path) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / "v.mp4", codec=codec, pix_fmt=pix_fmt)
    assert "damaged" in refusal(overwrite(path, 0.4), reader)


def test_frames_away_from_the_damage_of_a_long_file_are_read(tmp_path: Path, as_long: None) -> None:
    path = overwrite(write_video(tmp_path / "v.mp4"), 0.4)
    with open_video(path) as video:
        assert frame_indices(video.read([25, 29])) == [25, 29]
        with pytest.raises(VideoError, match="damaged"):
            video.read(range(30))


@pytest.mark.parametrize("length", ["short", "long"])
def test_a_frame_lost_from_a_transport_stream_is_noticed(
    length: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if length == "long":
        request.getfixturevalue("as_long")
    path = write_video(tmp_path / "v.ts")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: places[14]] + data[places[15] :])
    with pytest.raises(VideoError, match=r"damaged: a (frame is lost|packet is incomplete)"):
        read_all(path)
    if length == "long":
        with open_video(path) as video:
            assert frame_indices(video.read([9, 11])) == [9, 11]
            assert frame_indices(video.read([24])) == [25]


def test_lost_frames_are_those_that_come_late() -> None:
    times = np.array([0, 10, 20, 40, 50, 60, *range(80, 300, 10)])
    assert timetable.lost_frames(times, np.array([0, 80])).tolist() == [3]
    assert timetable.lost_frames(times**2, np.array([0])).tolist() == []
    assert timetable.lost_frames(times[:1], np.array([0])).tolist() == []


def test_a_corrupt_frame_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that the decoder conceals is seen by the frame's mark alone."""
    path = write_video(tmp_path / "v.mp4", b_frames=2, options={"crf": "10"}, size=(192, 256))
    concealed = 0
    for step in range(20):
        damaged = tmp_path / f"{step}.mp4"
        damaged.write_bytes(path.read_bytes())
        overwrite(damaged, 0.1 + 0.035 * step, 4)
        with av.open(str(damaged)) as container:
            try:
                concealed += any(frame.is_corrupt for frame in container.decode(video=0))
            except av.FFmpegError:
                continue
        try:
            assert np.array_equal(read_all(damaged), read_all(path))
        except VideoError as error:
            assert "damaged" in str(error)
    assert concealed > 2


def test_damage_to_motion_jpeg_is_seen_where_the_decoder_would_conceal_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", codec="mjpeg", pix_fmt="yuvj420p")
    whole, frames = path.read_bytes(), read_all(path)
    num_wrong = 0
    for step in range(20):
        path.write_bytes(whole)
        overwrite(path, 0.1 + 0.035 * step, 30)
        try:
            num_wrong += not np.array_equal(read_all(path), frames)
        except VideoError as error:
            assert "damaged" in str(error)
    assert num_wrong <= 2  # JPEG has no check sums: a few bytes may decode to another picture


def test_a_frame_that_does_not_come_at_its_time_is_refused(tmp_path: Path, as_long: None) -> None:
    path = write_video(tmp_path / "v.mp4")
    with open_video(path) as video:
        assert video.table.times is not None
        times = video.table.times.copy()
        times[15] += 1
        video._table = replace(video.table, times=times)
        assert frame_indices(video.read([14])) == [14]
        assert frame_indices(video.read([20])) == [20]
        with pytest.raises(VideoError, match="frame 15 does not come at its time"):
            video.read([16])


def test_frames_after_a_lost_one_are_refused(tmp_path: Path, as_long: None) -> None:
    with open_video(write_video(tmp_path / "v.mp4")) as video:
        video._table = replace(video.table, lost_before=np.array([15]))
        assert frame_indices(video.read([10, 14])) == [10, 14]
        assert frame_indices(video.read([20])) == [20]
        with pytest.raises(VideoError, match="a frame is lost before its frame 15"):
            video.read([15])


def test_incomplete_packets_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mpg", codec="mpeg2video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "a packet is incomplete" in refusal(path)


def test_a_change_of_frame_size_is_refused(tmp_path: Path) -> None:
    sizes = ((96, 128), (64, 96))
    parts = [write_video(tmp_path / f"{size[0]}.h264", 5, size) for size in sizes]
    path = tmp_path / "v.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert "changes its frame size on the way, to 96x64" in refusal(path)
