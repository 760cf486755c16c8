import multiprocessing
import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest

from endofm.data.video import open_video, pyav, timetable
from endofm.errors import ConfigError, VideoError
from tests.make import (
    OPEN_GOP,
    copy_video,
    cut_video,
    frame_indices,
    numbered_frame,
    overwrite,
    shared_folder,
    write_frames,
    write_video,
)
from tests.read import READERS, read_all, refusal

ALL = list(range(30))

# name -> how to write 30 numbered frames; PyAV must read every one exactly
WELL_FORMED = {
    "plain.mp4": {},
    "b_frames.mp4": {"b_frames": 2},
    "b_frames.mkv": {"b_frames": 2},
    "b_frames.ts": {"b_frames": 2},
    "b_frames.avi": {"b_frames": 2},
    "b_frames.flv": {"b_frames": 2},
    "open_gop.mp4": {"b_frames": 3, "options": OPEN_GOP},
    "open_gop.ts": {"b_frames": 3, "options": OPEN_GOP},
    "offset.mp4": {"times": range(50, 80)},
    "offset.mkv": {"times": range(50, 80)},
    "variable_rate.mp4": {"times": [i * i for i in range(30)], "b_frames": 2},
    "interlaced.mp4": {"options": {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}},
    "ten_bits.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "hevc.ts": {"codec": "libx265", "b_frames": 3},
    "av1.mp4": {"codec": "libsvtav1"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "motion_jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "grey16.mkv": {"codec": "ffv1", "pix_fmt": "gray16le"},
    "alpha.mkv": {"codec": "ffv1", "pix_fmt": "yuva420p"},
    "rgba.mov": {"codec": "png", "pix_fmt": "rgba"},
    "yuv444.mp4": {"pix_fmt": "yuv444p"},
    "odd_size.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (257, 341)},
    "one_group.mp4": {"gop": 300},
    "raw.h264": {},
    "naïve ⟨名⟩ with spaces.mp4": {},
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_pyav_gives_every_frame_of_a_short_file(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, **WELL_FORMED[name])
    with open_video(path) as video:
        assert len(video) == 30
        assert video.size == WELL_FORMED[name].get("size", (96, 128))
        assert frame_indices(video.read(ALL)) == ALL


@pytest.mark.parametrize("name", WELL_FORMED)
def test_pyav_seeks_to_any_frame_of_a_long_file(name: str, tmp_path: Path, as_long: None) -> None:
    path = write_video(tmp_path / name, **WELL_FORMED[name])
    with open_video(path) as video:
        assert len(video) == 30
        for wanted in ([17], [29, 0], [9, 10, 11], [3, 28, 3, 12], [19, 20], ALL):
            assert frame_indices(video.read(wanted)) == wanted


@pytest.mark.parametrize("name", WELL_FORMED)
@pytest.mark.parametrize("reader", ["decord", "opencv"])
def test_other_readers_are_exact_or_point_to_pyav(reader: str, name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, **WELL_FORMED[name])
    wanted = [29, 3, 17, 3, 12]
    try:
        with open_video(path, reader) as video:
            frames = video.read(wanted)
    except VideoError as error:
        assert str(path) in str(error) and "use the reader 'pyav'" in str(error)
        assert name not in ("plain.mp4", "b_frames.mp4", "b_frames.mkv", "offset.mp4")
    else:
        assert frame_indices(frames) == wanted
        with open_video(path) as video:
            assert np.array_equal(frames, video.read(wanted))


@pytest.mark.parametrize("reader", ["decord", "opencv"])
def test_colours_that_others_round_otherwise_are_left_to_pyav(reader: str, tmp_path: Path) -> None:
    deep = write_video(tmp_path / "deep.mp4", pix_fmt="yuv420p10le")
    assert "it has 10 bits a colour" in refusal(deep, reader)
    odd = write_video(tmp_path / "odd.mkv", codec="ffv1", size=(97, 128))
    assert "it has an odd height (97)" in refusal(odd, reader)
    wide = write_video(tmp_path / "wide.mkv", codec="ffv1", pix_fmt="yuv411p")
    assert "four pixels of a row share their colour" in refusal(wide, reader)
    wide = write_video(tmp_path / "own.mkv", codec="ffv1", pix_fmt="yuv444p10le", size=(97, 128))
    assert np.array_equal(read_all(wide, reader), read_all(wide))


def test_decord_refuses_transport_streams(tmp_path: Path) -> None:
    message = refusal(write_video(tmp_path / "v.ts", b_frames=2), "decord")
    assert "MPEG stream" in message and "'pyav'" in message


def test_decord_refuses_open_picture_groups(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", b_frames=3, options=OPEN_GOP)
    assert "picture groups are open" in refusal(path, "decord")


def test_decord_refuses_edit_lists(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4")
    assert "edit list" in refusal(cut_video(source, tmp_path / "cut.mp4", 14, 25), "decord")


def test_decord_refuses_files_whose_times_it_sees_differently(tmp_path: Path) -> None:
    assert "other times" in refusal(write_video(tmp_path / "v.avi"), "decord")


def test_opencv_refuses_files_whose_times_it_sees_differently(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mpg", codec="mpeg2video", b_frames=2)
    assert "other times" in refusal(path, "opencv")


def test_a_long_file_is_sought_in_not_decoded_from_its_start(
    tmp_path: Path, as_long: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(write_video(tmp_path / "v.mp4")) as video:
        decoded: list[int] = []
        original = video._decoded

        def counted(packets: object) -> object:
            for frame in original(packets):
                decoded.append(frame.pts)
                yield frame

        monkeypatch.setattr(video, "_decoded", counted)
        assert frame_indices(video.read([0, 25])) == [0, 25]
    assert len(decoded) == 1 + 6


def test_program_streams_are_not_sought_in(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mpg", codec="mpeg2video")
    assert len(pyav.timetable(path).keys) == 0  # their times after a seek are made up


@pytest.mark.parametrize("reader", ["decord", "opencv"])
def test_others_refuse_interlaced_video(reader: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", **WELL_FORMED["interlaced.mp4"])
    assert "interlaced" in refusal(path, reader)


def test_opencv_refuses_a_stream_in_which_it_stops_early(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    with open_video(path, "opencv") as video:
        overwrite(path, 0.3, 1500)
        with pytest.raises(VideoError, match="OpenCV"):
            video.read([29])


def test_all_sources_give_the_same_pixels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", size=(120, 160), b_frames=2)
    frames = read_all(path)
    for reader in ("decord", "opencv"):
        assert np.array_equal(read_all(path, reader), frames), reader
    assert np.array_equal(read_all(write_frames(tmp_path / "frames", frames)), frames)


def test_pixels_are_those_that_were_written(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", 2, codec="ffv1", pix_fmt="bgr0")
    assert np.array_equal(read_all(path), [numbered_frame(0), numbered_frame(1)])


@pytest.mark.parametrize("reader", READERS)
def test_frames_come_in_the_order_asked_for_with_repeats(reader: str, tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "v.mp4", b_frames=2), reader) as video:
        frames = video.read([20, 5, 5, np.int64(29), 0, 20])
        assert frames.shape == (6, 96, 128, 3) and frames.dtype == np.uint8
        assert frame_indices(frames) == [20, 5, 5, 29, 0, 20]
        assert frame_indices(video.read([7])) == [7]  # reading again goes back
        assert video.read([]).shape == (0, 96, 128, 3)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_in_the_container_is_applied(reader: str, rotation: int, tmp_path: Path) -> None:
    upright = write_video(tmp_path / "upright.mp4", 3)
    turned = write_video(tmp_path / "turned.mp4", 3, rotation=rotation)
    with open_video(turned, reader) as video:
        assert video.size == ((96, 128) if rotation == 180 else (128, 96))
        frames = video.read([2, 0])
        small = video.read([0], (64, 48))
    expected = np.rot90(read_all(upright)[[2, 0]], rotation // 90, (1, 2))
    assert np.array_equal(frames, expected)
    assert small.shape == (1, 64, 48, 3)


def test_frames_are_scaled_to_the_size_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", size=(240, 320))
    folder = write_frames(tmp_path / "frames", read_all(path))
    for source, reader in [*((path, reader) for reader in READERS), (folder, "pyav")]:
        with open_video(source, reader) as video:
            frames = video.read([21, 6], (60, 80))
        assert frames.shape == (2, 60, 80, 3)
        assert frame_indices(frames) == [21, 6]
        assert abs(frames[0, 8, 8].astype(int) - (250, 200, 140)).max() < 12


def test_mean_rate_is_known(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mkv", fps=24)) as video:
        assert video.fps == 24
    varying = write_video(tmp_path / "b.mp4", 3, times=[0, 1, 30])
    with open_video(varying) as video:
        assert video.fps == pytest.approx(2)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("index", [30, -1])
def test_index_out_of_range_is_refused(reader: str, index: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    with (
        open_video(path, reader) as video,
        pytest.raises(VideoError, match=rf"30 frames.*no frame {index}"),
    ):
        video.read([0, index])


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 1)
    for reader in READERS:
        assert frame_indices(read_all(path, reader)) == [0]


@pytest.mark.parametrize("reader", ["pyav", "opencv"])
@pytest.mark.parametrize("start", [10, 14, 20])
def test_an_edit_list_hides_frames(reader: str, start: int, tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4", b_frames=2)
    cut = cut_video(source, tmp_path / "cut.mp4", start, 30)
    assert frame_indices(read_all(cut, reader)) == list(range(start, 30))


def test_an_edit_list_hides_frames_of_a_long_file(tmp_path: Path, as_long: None) -> None:
    cut = cut_video(write_video(tmp_path / "v.mp4", b_frames=2), tmp_path / "cut.mp4", 14, 30)
    with open_video(cut) as video:
        assert len(video) == 16
        for wanted in ([9], [0, 15], [5, 6]):
            assert frame_indices(video.read(wanted)) == [14 + index for index in wanted]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("length", ["short", "long"])
def test_a_cut_within_open_groups_begins_with_the_first_frame_that_can_be_shown(
    suffix: str, length: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if length == "long":
        request.getfixturevalue("as_long")
    name = "v.ts" if suffix == "ts" else "v.mp4"
    source = write_video(tmp_path / name, b_frames=3, options=OPEN_GOP)
    cut = cut_video(source, tmp_path / f"cut.{suffix}", 10, 30)
    with open_video(cut) as video:
        assert frame_indices(video.read(range(len(video)))) == list(range(10, 30))
        assert frame_indices(video.read([13, 2])) == [23, 12]


def test_fragmented_files_are_read(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4", b_frames=2)
    path = copy_video(source, tmp_path / "f.mp4", movflags="frag_keyframe+empty_moov")
    assert frame_indices(read_all(path)) == ALL


@pytest.mark.parametrize("reader", READERS)
def test_names_may_look_like_protocols_and_patterns(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4").rename(tmp_path / "http:50% %03d?.mp4")
    monkeypatch.chdir(tmp_path)
    assert frame_indices(read_all(Path("http:50% %03d?.mp4"), reader)) == ALL


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv").rename(tmp_path / "v.avi")
    assert frame_indices(read_all(path)) == ALL


def test_a_replaced_file_is_seen(tmp_path: Path, as_long: None) -> None:
    path = write_video(tmp_path / "v.mp4", 30)
    assert len(read_all(path)) == 30
    write_video(path, 12)
    for reader in READERS:
        assert len(read_all(path, reader)) == 12


def test_timetables_are_remembered_but_not_without_end(tmp_path: Path, as_long: None) -> None:
    path = write_video(tmp_path / "v.mp4")
    read_all(path)
    table = timetable.recall(path)
    read_all(path)
    assert table is not None and timetable.recall(path) is table
    for copy in range(70):
        other = tmp_path / f"{copy}.mp4"
        other.touch()
        timetable.remember(other, table)
    assert timetable.recall(path) is None


def test_a_closed_reader_does_not_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    for reader in READERS:
        with open_video(path, reader) as video:
            pass
        with pytest.raises(VideoError, match="closed"):
            video.read([0])


def test_a_reader_does_not_cross_a_fork_or_a_pickle(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "v.mp4")) as video:
        with pytest.raises(TypeError):
            pickle.dumps(video)
        reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            try:
                video.read([0])
            except VideoError as error:
                writer.send(str(error))
            os._exit(0)
        assert reader.poll(5) and "fork" in reader.recv()
        os.waitpid(child, 0)


def test_unknown_readers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pyav, decord, opencv"):
        open_video(tmp_path, "gstreamer")


@pytest.mark.real
def test_real_video_seeks_to_the_frames_of_sequential_decoding() -> None:
    path = shared_folder() / "real/laparoscopy_rvim/endo.mp4"
    wanted = [0, 249, *np.random.default_rng(0).integers(0, 250, 4).tolist()]
    with av.open(str(path)) as container:
        expected = {
            index: frame.to_ndarray(format="rgb24")
            for index, frame in enumerate(container.decode(video=0))
            if index in wanted
        }
    with open_video(path) as video:
        assert (len(video), video.size, video.fps) == (250, (720, 1280), 25)
        for index in wanted:
            assert np.array_equal(video.read([index])[0], expected[index])


@pytest.mark.real
def test_real_video_is_the_same_through_decord() -> None:
    path = shared_folder() / "real/laparoscopy_rvim/endo.mp4"
    with open_video(path) as video, open_video(path, "decord") as other:
        assert np.array_equal(video.read([120]), other.read([120]))
