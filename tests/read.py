"""How tests read videos."""

from pathlib import Path

import numpy as np
import pytest

from endofm.data.video import open_video
from endofm.errors import VideoError

READERS = ("pyav", "decord", "opencv")


def read_all(path: Path, reader: str = "pyav") -> np.ndarray:
    with open_video(path, reader) as video:
        return video.read(range(len(video)))


def refusal(path: Path, reader: str = "pyav") -> str:
    """The sentence with which opening or reading is refused."""
    with pytest.raises(VideoError) as caught:
        read_all(path, reader)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message and message.endswith(".")
    return message
