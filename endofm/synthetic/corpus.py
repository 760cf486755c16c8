"""A corpus on disk: videos, masks, boxes and a manifest, made clip by clip and taken up where left.

```
manifest.csv                 path, frames, group, split, masks, boxes, label_polyp, label_scene,
                             label_organ
boxes.csv                    path, frame, x1, y1, x2, y2 (inclusive corners)
corpus.json                  what the folder was made from
videos/clip_00000.mp4
masks/clip_00000/0000.png    255 on polyps; a picture for every frame
```
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from endofm.data.corpus.encode import CLOSED_GROUPS
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import ConfigError
from endofm.files import PART, make_folder, new_file, new_folder, write_text
from endofm.synthetic.clips import SyntheticClip, check_sizes, render_clip
from endofm.synthetic.world import SCENES

FORMAT = 3  # raise it when the same spec gives other files; a further label is none
UPPER = ("esophagus", "stomach")
"""Scenes of the upper gastrointestinal tract; the others are of the lower."""
# Without macroblock trees: with them libx264 encodes equal frames to different bytes on CPUs with
# AVX-512. It costs half as much again in bytes, so that `endofm corpus prepare` keeps them.
X264 = f"{CLOSED_GROUPS}:mbtree=0"
BOX_COLUMNS = ("frame", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class CorpusSpec:
    """What a corpus holds; clip i depends on the seed, i and the sizes only."""

    num_clips: int = 60
    """Clips in all."""
    num_frames: int = 40
    """Frames of a clip."""
    height: int = 128
    """Height of a frame, even."""
    width: int = 128
    """Width of a frame, even."""
    fps: int = 15
    """Frames a second."""
    seed: int = 0
    """Another seed, another corpus."""
    test_share: float = 0.25
    """Share of the clips whose split is `test`; the others are `train`."""


@dataclass(frozen=True)
class ClipPlan:
    """What clip `index` of a corpus is to show."""

    index: int
    seed: int
    scene: str
    has_polyp: bool
    split: str

    @property
    def name(self) -> str:
        """Its name in the folder: `clip_00012`."""
        return f"clip_{self.index:05d}"


def plan_clip(spec: CorpusSpec, index: int) -> ClipPlan:
    """Labels, split and seed of a clip.

    Clips come in pairs of one scene, one with a polyp and one without, and pairs in rounds of all
    scenes. A pair lies in one split, and every scene gives its share to the test split.
    """
    pair, second = divmod(index, 2)
    turn, place = divmod(pair, len(SCENES))
    order = np.random.default_rng([spec.seed, 1, turn]).permutation(len(SCENES))
    number = int(order[place])
    polyp_first = np.random.default_rng([spec.seed, 2, pair]).random() < 0.5
    before = turn * spec.test_share + (len(SCENES) - 1 - number) / len(SCENES) + 1e-9
    is_test = math.floor(before + spec.test_share) > math.floor(before)
    seed = int(np.random.SeedSequence([spec.seed, 0, index]).generate_state(1, np.uint64)[0])
    has_polyp = bool(polyp_first) == (second == 0)
    return ClipPlan(index, seed, SCENES[number], has_polyp, "test" if is_test else "train")


def write_corpus(
    folder: Path,
    spec: CorpusSpec,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> Path:
    """Write what is missing of a corpus and return its manifest; a finished folder stays as it is.

    `progress` is called with the number of finished clips; `workers` processes render, and what
    they write does not depend on their number. Raises `ConfigError` for a spec that
    can't be made, a folder made from another one, or a folder that can't be written.
    """
    _check_spec(spec)
    folder = Path(folder)
    plans = [plan_clip(spec, index) for index in range(spec.num_clips)]
    manifest = folder / "manifest.csv"
    claim(folder, {"format": FORMAT, **asdict(spec)})
    fresh = False
    for done, is_new in enumerate(_write_missing(folder, plans, spec, workers), 1):
        fresh = is_new or fresh
        if progress is not None:
            progress(done)
    if fresh or not (manifest.is_file() and (folder / "boxes.csv").is_file()):
        _write_boxes(folder, plans)
        write_manifest(manifest, [_segment(folder, plan, spec) for plan in plans])
    return manifest


def _check_spec(spec: CorpusSpec) -> None:
    check_sizes(spec.num_frames, spec.height, spec.width)
    if not 1 <= spec.num_clips <= 99_999:
        raise ConfigError(f"num_clips is {spec.num_clips}; choose a number from 1 to 99999.")
    if not 1 <= spec.fps <= 240:
        raise ConfigError(f"fps is {spec.fps}; choose a whole number from 1 to 240.")
    if spec.seed < 0:
        raise ConfigError(f"The seed is {spec.seed}; give a whole number of 0 or more.")
    if not 0 <= spec.test_share <= 1:
        raise ConfigError(f"test_share is {spec.test_share}; choose a share from 0 to 1.")


def claim(folder: Path, wanted: dict[str, object]) -> None:
    """Make the folder this spec's, or find that it is already.

    Raises `ConfigError` for a folder with another spec's files, or others.
    """
    note = folder / "corpus.json"
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise ConfigError(
                f"{folder} holds a corpus made from another spec ({_difference(found, wanted)}); "
                "give another folder or delete this one."
            )
        return
    ours = {f"corpus.json{PART}"}  # from a run that was stopped while it wrote its note
    if folder.is_dir() and any(file.name not in ours for file in folder.iterdir()):
        raise ConfigError(f"{folder} holds other files; give an empty folder or a new one.")
    make_folder(folder)
    write_text(note, json.dumps(wanted, indent=2) + "\n")


def _difference(found: object, wanted: dict[str, object]) -> str:
    if not isinstance(found, dict):
        return "its corpus.json can't be read"
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in changed)


def _write_missing(
    folder: Path, plans: list[ClipPlan], spec: CorpusSpec, workers: int
) -> Iterator[bool]:
    """Clip by clip, whether it had to be written."""
    write = partial(_write_clip_if_missing, folder, spec=spec)
    if workers < 2:
        yield from map(write, plans)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(write, plans)


def _write_clip_if_missing(folder: Path, plan: ClipPlan, spec: CorpusSpec) -> bool:
    """Render and write a clip unless it is there; the video comes last and tells that all is."""
    video, masks = _video(folder, plan), folder / "masks" / plan.name
    if video.is_file() and masks.is_dir():
        return False
    clip = render_clip(
        plan.seed, plan.scene, plan.has_polyp, spec.num_frames, spec.height, spec.width
    )
    _write_masks(masks, clip)
    _write_video(video, clip, spec.fps)
    return True


def _video(folder: Path, plan: ClipPlan) -> Path:
    return folder / "videos" / f"{plan.name}.mp4"


def _write_masks(masks: Path, clip: SyntheticClip) -> None:
    """A picture a frame and the boxes of all; the folder appears whole or not at all."""
    with new_folder(masks) as part:
        for frame, mask in enumerate(clip.masks):
            _, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
            (part / f"{frame:04d}.png").write_bytes(data.tobytes())
        lines = [",".join(BOX_COLUMNS)]
        for frame, boxes in enumerate(clip.boxes()):
            lines += [",".join(map(str, [frame, *box])) for box in boxes.tolist()]
        (part / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_video(video: Path, clip: SyntheticClip, fps: int) -> None:
    """H.264 in closed groups of 12 frames, equal bytes for equal frames; whole or not at all."""
    _, height, width, _ = clip.frames.shape
    options = {"crf": "18", "preset": "veryfast", "x264-params": X264}
    with new_file(video) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        for picture in clip.frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_boxes(folder: Path, plans: list[ClipPlan]) -> None:
    """Gather the boxes of all clips."""
    lines = ["path," + ",".join(BOX_COLUMNS)]
    for plan in plans:
        path = _video(folder, plan).relative_to(folder).as_posix()
        with (folder / "masks" / plan.name / "boxes.csv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        lines += [",".join([path, *row]) for row in rows]
    write_text(folder / "boxes.csv", "\n".join(lines) + "\n")


def _segment(folder: Path, plan: ClipPlan, spec: CorpusSpec) -> Segment:
    labels = {
        "polyp": "polyp" if plan.has_polyp else "normal",
        "scene": plan.scene,
        "organ": "upper gi" if plan.scene in UPPER else "lower gi",
    }
    path = _video(folder, plan).relative_to(folder).as_posix()
    masks = f"masks/{plan.name}"
    return Segment(
        folder, path, 0, spec.num_frames, plan.name, plan.split, labels, masks, "boxes.csv"
    )
