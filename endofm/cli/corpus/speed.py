"""`endofm corpus speed`: how fast a manifest's clips are read on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from tyro.conf import Positional

from endofm.cli.talk import say
from endofm.data.corpus.speed import reading_speed
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import Decoder


@dataclass(frozen=True)
class Speed:
    """Clips a second of one core's time, with each reader."""

    manifest: Annotated[Positional[Path], tyro.conf.arg(metavar="MANIFEST.csv")]
    """Clips to read, in turn."""
    readers: tuple[Decoder, ...] = ("pyav", "decord", "opencv")
    """Which to time; a folder of frames has one reader of its own."""
    num_frames: int = 8
    """Beside all frames of a clip, so many spread over it."""
    seconds: float = 3.0
    """How long to read for each figure."""

    def run(self) -> None:
        """Time them, in one thread."""
        cv2.setNumThreads(1)
        segments = read_manifest(self.manifest)
        for found in reading_speed(segments, self.readers, self.num_frames, self.seconds):
            say(
                f"{found.reader}: {found.all_frames:.1f} clips a core-second with all frames, "
                f"{found.some_frames:.1f} with {self.num_frames}"
            )
