"""Frames that nothing wanted builds upon are not decoded, and no other frame changes by that."""

from pathlib import Path

import av
import numpy as np
import pytest

from endofm.data.manifests.folder import manifest_from_folder
from endofm.data.video import open_video
from endofm.data.video.h264 import Units, units
from endofm.data.video.pyav import PyAVReader
from endofm.data.video.scan import Scan
from endofm.data.video.timetable import Sparing
from endofm.errors import VideoError
from tests.make import OPEN_GOP, copy_video, cut_video, write_video

NUM = 60
CLOSED = "scenecut=0:b-adapt=0"

# name -> how it is written; those of which frames may be left out, and others
SPARING = {
    "b_frames.mp4": {"b_frames": 2},
    "b_frames.mkv": {"b_frames": 2},
    "b_frames.mov": {"b_frames": 3, "gop": 12},
    "pyramid.mp4": {"b_frames": 5, "options": {"x264-params": f"{CLOSED}:b-pyramid=normal"}},
    "flat.mp4": {"b_frames": 3, "options": {"x264-params": f"{CLOSED}:b-pyramid=none:cabac=0"}},
    "no_b_frames.mp4": {},
    "one_group.mp4": {"b_frames": 3, "gop": 300},
    "variable_rate.mp4": {"b_frames": 2, "times": [i * i for i in range(NUM)]},
    "offset.mp4": {"b_frames": 2, "times": range(50, 50 + NUM)},
    "slices.mp4": {"b_frames": 2, "options": {"x264-params": "slices=3"}},
    "yuv444.mp4": {"b_frames": 2, "pix_fmt": "yuv444p"},
    "baseline.mp4": {"options": {"profile": "baseline"}},
    "rotated.mp4": {"b_frames": 2, "rotation": 90},
}
OTHERS = {
    "open_gop.mp4": {"b_frames": 3, "options": OPEN_GOP},
    "stream.ts": {"b_frames": 2},
    "raw.h264": {"b_frames": 2},
    "interlaced.mp4": {
        "b_frames": 2,
        "options": {"flags": "+ildct+ilme", "x264-params": "interlaced=1"},
    },
    "fake_interlaced.mp4": {"b_frames": 2, "options": {"x264-params": "fake-interlaced=1"}},
    "hevc.mp4": {"codec": "libx265", "b_frames": 3},
    "mpeg4.mp4": {"codec": "mpeg4", "b_frames": 2},
}
ALL = {**SPARING, **OTHERS}


def written(tmp_path: Path, name: str) -> Path:
    return write_video(tmp_path / name, NUM, (48, 64), **{"gop": 10, **ALL[name]})


def planes(path: Path) -> list[np.ndarray]:
    """All frames as the decoder gives them, by PyAV alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def subsets(num: int, times: int = 12) -> list[list[int]]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, num // 2, times)
    return [rng.choice(num, size, replace=False).tolist() for size in sizes]


def count_decoded(video: PyAVReader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the time of every frame that the decoder gives."""
    original, decoded = video._decoded, []

    def counted(packets: object) -> object:
        for frame in original(packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "_decoded", counted)
    return decoded


@pytest.mark.parametrize("name", ALL)
def test_any_frames_are_those_of_whole_decoding(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name)
    turns = 1 if name == "rotated.mp4" else 0
    expected = np.rot90(np.stack(planes(path)), turns, (1, 2))
    with open_video(path) as video:
        assert len(video) == NUM
        assert (video.table.sparing is not None) == (name in SPARING)
        for wanted in [*subsets(NUM), list(range(NUM)), [0], [NUM - 1]]:
            assert np.array_equal(video.read(wanted), expected[wanted])


@pytest.mark.parametrize("name", SPARING)
def test_any_frames_of_a_long_file_are_those_of_whole_decoding(
    name: str, tmp_path: Path, as_long: None
) -> None:
    test_any_frames_are_those_of_whole_decoding(name, tmp_path)


def test_a_cut_that_hides_frames_is_decoded_whole(tmp_path: Path) -> None:
    cut = cut_video(written(tmp_path, "b_frames.mp4"), tmp_path / "cut.mp4", 14, 40)
    expected = np.stack(planes(cut))
    with open_video(cut) as video:
        assert video.table.sparing is None
        for wanted in subsets(len(expected)):
            assert np.array_equal(video.read(wanted), expected[wanted])


def test_fragments_spare_frames_too(tmp_path: Path) -> None:
    source = written(tmp_path, "pyramid.mp4")
    path = copy_video(source, tmp_path / "f.mp4", movflags="frag_keyframe+empty_moov")
    expected = np.stack(planes(path))
    with open_video(path) as video:
        assert video.table.sparing is not None
        for wanted in subsets(NUM):
            assert np.array_equal(video.read(wanted), expected[wanted])


def test_spare_frames_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "flat.mp4")  # groups I b b b P b b b P P
    with PyAVReader(path) as video:
        decoded = count_decoded(video, monkeypatch)
        video.read([0, 8, 12, 14, 24, 59])
        # of 0-9 the references; of 10-19 two, and the wanted 12; of 20-29 two; of 50-59 four
        seconds = [round(float(time * video.table.time_base) * 30) for time in decoded]
    assert seconds == [0, 4, 8, 10, 12, 14, 20, 24, 50, 54, 58, 59]


def test_opening_decodes_one_frame_and_streaming_all_decodes_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "pyramid.mp4")
    given = []
    original = PyAVReader._decoded

    def counted(self: PyAVReader, packets: object) -> object:
        for frame in original(self, packets):
            given.append(frame.pts)
            yield frame

    monkeypatch.setattr(PyAVReader, "_decoded", counted)
    with PyAVReader(path) as video:
        assert len(given) == 1
        assert len(list(video.stream(range(NUM)))) == NUM
    assert len(given) == 1 + NUM


def test_needed_frames_are_the_wanted_ones_and_what_they_may_build_upon() -> None:
    # two groups, in the order of packets: 0 4 2 1 3 5 | 6 9 7 8
    sparing = Sparing(
        order=np.array([0, 3, 2, 4, 1, 5, 6, 8, 9, 7]),
        group=np.array([0] * 6 + [1] * 4),
        is_spare=np.array([0, 1, 0, 1, 0, 0, 0, 1, 1, 0], bool),
    )
    assert sparing.needed([0]).tolist() == [0]
    assert sparing.needed([1]).tolist() == [0, 1, 2, 4]
    assert sparing.needed([2]).tolist() == [0, 2, 4]
    assert sparing.needed([5]).tolist() == [0, 2, 4, 5]
    assert sparing.needed([8]).tolist() == [6, 8, 9]
    assert sparing.needed([4, 6]).tolist() == [0, 4, 6]
    assert sparing.needed(range(10)).tolist() == list(range(10))


def test_where_sparing_does_not_give_the_frames_all_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "pyramid.mp4")
    expected = np.stack(planes(path))
    with PyAVReader(path) as video:
        chosen = video._chosen
        monkeypatch.setattr(video, "_chosen", lambda packets, needed: chosen(packets, needed[:1]))
        for wanted in subsets(NUM):
            assert np.array_equal(video.read(wanted), expected[wanted])


def damaged(path: Path, index: int) -> Path:
    """A copy in which the packet of a frame has other bytes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = sorted(packet.pts for packet in packets)
        packet = next(packet for packet in packets if packet.pts == times[index])
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    start = place + size // 4
    data[start : place + size] = np.random.default_rng(index).bytes(place + size - start)
    target = path.with_name(f"{index}{path.suffix}")
    target.write_bytes(data)
    return target


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Groups I b b b P b b b P P of frames large enough to be damaged."""
    return write_video(
        tmp_path / "whole.mp4",
        30,
        (192, 256),
        b_frames=3,
        options={"crf": "10", "x264-params": f"{CLOSED}:b-pyramid=none"},
    )


def test_damage_is_an_error_where_a_wanted_frame_builds_upon_it(whole: Path) -> None:
    expected = np.stack(planes(whole))
    for index, fine, wrong in (
        (12, [11, 13, 14, 29, 0], [12]),  # spare
        (14, [10, 9, 20, 29], [11, 14, 16, 19]),
        (10, [9, 0, 20], [10, 11, 19]),
    ):
        with open_video(damaged(whole, index)) as video:
            assert video.table.sparing is not None
            assert len(video) == 30
            assert np.array_equal(video.read(fine), expected[fine])
            for one in wrong:
                with pytest.raises(VideoError, match="damaged"):
                    video.read([fine[0], one])


def test_damage_anywhere_is_found_where_all_is_looked_at(whole: Path, tmp_path: Path) -> None:
    path = damaged(whole, 12)  # a spare one
    with PyAVReader(path) as video, pytest.raises(VideoError, match="damaged"):
        video.check()
    for reader in ("decord", "opencv"):  # which conceal it
        with pytest.raises(VideoError, match="damaged"):
            open_video(path, reader)
    segments, left_out = manifest_from_folder(tmp_path)
    assert [segment.path for segment in segments] == ["whole.mp4"]
    assert len(left_out) == 1 and "damaged" in left_out[0]


def test_whatever_is_damaged_no_wrong_frame_is_given(whole: Path, tmp_path: Path) -> None:
    expected, data = np.stack(planes(whole)), whole.read_bytes()
    rng = np.random.default_rng(1)
    path, num_given = tmp_path / "hurt.mp4", 0
    for number, wanted in enumerate(subsets(30, 25)):
        place = int(len(data) * (0.05 + 0.036 * number))
        path.write_bytes(data[:place] + rng.bytes(6) + data[place + 6 :])
        try:
            with open_video(path) as video:
                assert np.array_equal(video.read(wanted), expected[wanted])
                num_given += 1
        except VideoError as error:
            assert "damaged" in str(error)
    assert 0 < num_given < 25


def packets_of(path: Path) -> tuple[Units, list["av.Packet[av.VideoStream]"]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        reader = units(stream.codec_context.extradata)
        assert reader is not None
        return reader, [packet for packet in container.demux(stream) if packet.size]


def test_pictures_are_read_from_packets(tmp_path: Path) -> None:
    reader, packets = packets_of(written(tmp_path, "flat.mp4"))
    pictures = [reader.picture(bytes(packet)) for packet in packets[:10]]
    assert all(pictures)
    # in the order of packets: I P b b b P b b b P
    assert [p.is_instant for p in pictures] == [True] + 9 * [False]
    assert [p.is_spare for p in pictures] == [*map(bool, [0, 0, 1, 1, 1, 0, 1, 1, 1, 0])]


def test_what_is_not_one_whole_frame_is_no_picture(tmp_path: Path) -> None:
    reader, packets = packets_of(written(tmp_path, "flat.mp4"))
    whole = bytes(packets[1])
    assert reader.picture(whole) is not None
    assert reader.picture(whole + whole) is None
    assert reader.picture(b"") is None
    for length in range(len(whole)):
        assert reader.picture(whole[:length]) is None
    rng = np.random.default_rng(0)
    for length in range(40):
        reader.picture(rng.bytes(length))


def test_heads_that_allow_fields_or_end_early_are_not_read(tmp_path: Path) -> None:
    heads = {}
    for name in ("flat.mp4", "interlaced.mp4", "fake_interlaced.mp4"):
        with av.open(str(written(tmp_path, name))) as container:
            heads[name] = container.streams.video[0].codec_context.extradata
    assert units(heads["flat.mp4"]) is not None
    assert units(heads["interlaced.mp4"]) is None
    assert units(heads["fake_interlaced.mp4"]) is None
    assert units(None) is None
    for length in range(8 + heads["flat.mp4"][7]):
        assert units(heads["flat.mp4"][:length]) is None


def test_a_group_that_brings_parameters_of_its_own_is_not_left_out(tmp_path: Path) -> None:
    reader, packets = packets_of(written(tmp_path, "flat.mp4"))
    assert Scan(packets, 16, reader).sparing is not None

    class Changed(Units):
        def __init__(self, place: int) -> None:
            super().__init__(4)
            self.left = place

        def picture(self, packet: object) -> object:
            self.left -= 1
            found = super().picture(packet)
            return found._replace(parameters=b"" if self.left else b"a set")

    for place in (3, 11):  # within a group, and at the head of the second
        assert Scan(packets, 16, Changed(place)).sparing is None
    assert Scan(packets, 16, Changed(999)).sparing is not None


def test_a_file_is_looked_at_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PyAVReader(whole) as video:
        assert not video.table.is_checked
        video.check()
        assert video.table.is_checked
    with PyAVReader(whole) as video:
        decoded = count_decoded(video, monkeypatch)
        video.check()
        assert decoded == []
        video.read([12])
        assert len(decoded) == 3  # I, P and the wanted one
