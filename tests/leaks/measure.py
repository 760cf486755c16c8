"""How many planted copies are found: `python -m tests.leaks.measure WORK --synthetic CORPUS`.

Sources are the real sequences and stills of the shared folder and the clips of a synthetic corpus
(`endofm synthetic CORPUS --num-clips 200 --height 96 --width 96`). Copies of every kind are written
to WORK, fingerprinted, and looked for among the sources. A hit between a source and a copy of
another sequence is false; so is the share of such pairs that is called the false-positive rate.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from endofm.data.checks.fingerprint import THUMBS_PER_SECOND
from endofm.data.checks.fingerprint_store import Store
from endofm.data.leakage.index import Clips
from endofm.data.leakage.search import search
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.video import open_video
from tests.leaks.planting import KINDS, plant
from tests.shared import shared_folder

_UNKNOWN_FPS = 25  # copies of folders, whose rate nobody knows, are written at it


def real_clips(work: Path) -> Iterator[tuple[str, Segment]]:
    """Sequence and clip: CVC, laparoscopy, and each still of Kvasir-SEG as a clip of one frame."""
    root = shared_folder("real")
    for folder in sorted((root / "cvc_clinicdb" / "images").iterdir()):
        yield folder.name, Segment(folder.parent, folder.name)
    for folder in sorted((root / "lap_intermountain").iterdir()):
        if folder.is_dir():
            yield folder.name, Segment(folder.parent, folder.name)
    for start in range(0, 250, 50):
        yield "endo", Segment(root / "laparoscopy_rvim", "endo.mp4", start, start + 50)
    for still in sorted((root / "kvasir_seg" / "images").iterdir()):
        link = work / "stills" / still.stem / still.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(still)
        yield still.stem, Segment(work / "stills", still.stem)


def measure(clips: list[tuple[str, Segment]], work: Path) -> Iterator[str]:
    """A row of the table for each kind of copy."""
    store = Store(work / "fingerprints")
    copies: dict[str, list[Segment]] = {kind: [] for kind in KINDS}
    for number, (_, segment) in enumerate(clips):
        with open_video(segment.file) as video:
            stop = segment.stop_frame or len(video)
            frames = video.read(range(segment.start_frame, stop))
            fps = _UNKNOWN_FPS if math.isnan(video.fps) else round(video.fps)
        for kind, path in plant(frames, fps, work / "copies", str(number), number):
            copies[kind].append(Segment(path.parent, path.name))
    sources = _clips([segment for _, segment in clips], store, 10**6)
    names = np.array([name for name, _ in clips])
    num_others = int((names[:, None] != names[None]).sum())
    for kind, planted in copies.items():
        found = {
            (one.first, one.second) for one in search(sources, _clips(planted, store, 0)).duplicates
        }
        hits = sum((number, number) in found for number in range(len(clips)))
        false = sum(names[one] != names[other] for one, other in found)
        yield (
            f"| {kind} | {hits} of {len(clips)} | {hits / len(clips):.3f} | "
            f"{false} of {num_others:,} | {false / num_others:.1e} |"
        )


def _clips(segments: list[Segment], store: Store, first_group: int) -> Clips:
    told = [store.make(segment) for segment in segments]
    steps = [2 if math.isnan(one.fps) else THUMBS_PER_SECOND for one in told]
    groups = range(first_group, first_group + len(segments))
    return Clips(list(groups), steps, lambda number: told[number].thumbs)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--synthetic", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    clips = list(real_clips(given.work))
    if given.synthetic is not None:
        rows = read_manifest(given.synthetic / "manifest.csv")
        clips += [(segment.path, segment) for segment in rows]
    for row in measure(clips, given.work):
        sys.stdout.write(row + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
