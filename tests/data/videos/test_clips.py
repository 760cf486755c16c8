from endofm.data.manifests.manifest import Segment
from endofm.data.videos.clips import center_clip
from tests.make import frame_index, write_video


def test_a_centre_clip_is_the_middle_square_of_frames_spread_over_the_segment(tmp_path):
    write_video(tmp_path / "a.mp4", 24, size=(96, 96))
    clip = center_clip(Segment(tmp_path, "a.mp4", 8, 24), num_frames=4, pixels=48)
    assert clip.shape == (4, 48, 48, 3)
    assert [frame_index(frame) for frame in clip] == [10, 14, 18, 22]


def test_a_wide_frame_loses_its_sides_and_a_short_segment_repeats_frames(tmp_path):
    write_video(tmp_path / "a.mp4", 2, size=(48, 96))
    clip = center_clip(Segment(tmp_path, "a.mp4", 0, 2), num_frames=4, pixels=32)
    assert clip.shape == (4, 32, 32, 3)
    assert (clip[0] == clip[1]).all() and (clip[2] == clip[3]).all()
