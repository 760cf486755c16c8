"""Films: pictures of one size, one after another, as H.264 in an mp4."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from endofm.files import new_file
from endofm.report.views import Image


@contextmanager
def film(path: Path, size: tuple[int, int], rate: Fraction) -> Iterator[Callable[[Image], None]]:
    """An H.264 film of `size` (height, width; even numbers) beside `path`, renamed when whole.

    Yields what adds a picture uint8 [height, width, 3] to it.
    """
    options = {"crf": "20", "preset": "veryfast"}
    with new_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"

        def show(picture: Image) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

        yield show
        container.mux(stream.encode(None))
