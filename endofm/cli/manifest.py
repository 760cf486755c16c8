"""`endofm manifest`: the videos below a folder, as a manifest to pretrain on."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import progress, say
from endofm.data.manifests.folder import manifest_from_folder
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import ManifestError


@dataclass(frozen=True)
class Manifest:
    """List the videos below a folder, cut into clips, as a manifest to pretrain on."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder that holds videos, or folders of frames, at any depth."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT.csv")]
    """The manifest to write (CSV)."""
    clip_seconds: float | None = 5.0
    """Cut videos into clips this long; None: every video is one clip."""
    root: Path | None = None
    """Folder the manifest's paths start from; by default the manifest's own, or else FOLDER."""

    def run(self) -> None:
        """Find clips, say what was found and what was left out, write the manifest."""
        folder, home = self.folder.resolve(), self.out.resolve().parent
        root = _root(folder, home, self.root)
        with progress("paths") as show:
            segments, left_out = manifest_from_folder(folder, self.clip_seconds, progress=show)
        for sentence in left_out:
            say(f"left out: {sentence}")
        if not segments:
            raise ManifestError(f"{folder} holds no usable video, so {self.out} is not written.")
        write_manifest(self.out, [_moved(segment, root) for segment in segments])
        videos = len({segment.path for segment in segments})
        frames = sum(segment.num_frames or 0 for segment in segments)
        say(
            f"{self.out} is written: clips {len(segments)}, files and folders {videos}, "
            f"frames {frames}, left out {len(left_out)}."
        )
        flags = ["--data.manifests", str(self.out)]
        if root != home:
            say("Its paths do not start from its own folder, so --data.root must be given.")
            flags += ["--data.root", str(root)]
        program = "python -m pretrain --config pretrain/configs/vits16.yaml"
        say(f"What training on it would take: {program} {shlex.join(flags)} --explain")


def _root(folder: Path, home: Path, wanted: Path | None) -> Path:
    """Where a manifest's paths start: as wanted, or its home if that holds the folder."""
    if wanted is None:
        return home if folder.is_relative_to(home) else folder
    root = wanted.resolve()
    if not folder.is_relative_to(root):
        raise ManifestError(f"{folder} does not lie in the root {root}; give a root that holds it.")
    return root


def _moved(segment: Segment, root: Path) -> Segment:
    """The same clip seen from another root."""
    prefix = PurePosixPath(segment.root.relative_to(root).as_posix())
    path, group = str(prefix / segment.path), str(prefix / segment.group)
    return replace(segment, root=root, path=path, group=group)
