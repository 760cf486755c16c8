"""Frames by index: the only room that knows a decoder.

Five sources stand behind one small interface. PyAV is the default because it is exact on every
file it can read: each frame is matched with the time at which it is to be shown, and damage on the
way to a wanted frame is an error. decord and OpenCV are choices for well-formed files and refuse
what they are known to get wrong. A folder of pictures is the fourth,
a CT volume the fifth: its axial slices are frames (see `volume`).

Frames are counted as shown: what an edit list hides, or what a stream that begins in the middle of
a picture group can't show, has no index. Pixels are RGB, upright (the container's rotation is
applied) and as stored (non-square pixels stay so).
"""

from endofm.data.video.frames import IMAGE_SUFFIXES
from endofm.data.video.reader import VIDEO_SUFFIXES, Decoder, VideoReader, open_video
from endofm.data.video.segment import read_segment

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Decoder",
    "VideoReader",
    "open_video",
    "read_segment",
]
