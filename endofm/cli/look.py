"""`endofm look`: what a model sees in a video, as a film or a sheet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm import hub
from endofm.cli.device import Device, place
from endofm.cli.talk import progress, say
from endofm.report.overlay import draw_video


@dataclass(frozen=True)
class Look:
    """Show a model's attention and patch features in a video, frame by frame."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A model folder, or whatever `endofm.load` takes."""
    video: Annotated[Positional[Path], tyro.conf.arg(metavar="VIDEO")]
    """A video file, or a folder of pictures."""
    out: Path
    """A film (.mp4) of the whole video, or a sheet (.png) of six clips spread over it."""
    clip_seconds: float | None = None
    """Length of a clip, over which the model's frames are spread; None: 1 s, or frames in a row
    where nothing tells the rate. The film shows the frames that clips take."""
    source_fps: float | None = None
    """Frames a second of a folder of pictures."""
    batch_size: int = 4
    """Clips at a time."""
    device: Device = None
    """Where to compute; None: the GPU if there is one."""

    def run(self) -> None:
        """Draw it and say where it is."""
        model = place(hub.load(self.model), self.device)
        is_timed = self.video.is_file() or self.source_fps is not None
        clip_seconds = self.clip_seconds or (1.0 if is_timed else None)
        with progress("clips") as show:
            draw_video(
                self.out,
                model,
                self.video,
                clip_seconds=clip_seconds,
                source_fps=self.source_fps,
                batch_size=self.batch_size,
                progress=show,
            )
        say(f"{self.out} shows {self.video}: the frames, attention, and features as colors.")
