"""A labelled corpus in which a bright square is the polyp, and recipes that train in seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from endofm.data.labelled.samples import LabelledConfig
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.starting import ModelOptions
from endofm.tasks.finetuning.trainable import TuningConfig
from endofm.training.finetuning import TuneOptimConfig
from finetune.config import FinetuneConfig, RunOptions
from tests.make import write_frames

PLAIN = {
    "crop_area": (1.0, 1.0),
    "flip": False,
    "color_jitter": (0.0, 0.0, 0.0),
    "rotate_degrees": 0.0,
}
"""Nothing is drawn."""


def write_labelled(
    folder: Path,
    num_clips: int = 12,
    num_frames: int = 4,
    size=(40, 48),
    splits=("train",) * 3,
    prefix: str = "clip",
) -> Path:
    """Folders of frames with masks, boxes and labels; every second clip has a square."""
    rng = np.random.default_rng(0)
    segments, lines = [], ["path,frame,x1,y1,x2,y2"]
    for number in range(num_clips):
        name, has_polyp = f"{prefix}_{number:02d}", number % 2 == 0
        frames = rng.integers(60, 90, (num_frames, *size, 3)).astype(np.uint8)
        masks = np.zeros((num_frames, *size), np.uint8)
        if has_polyp:
            top, left = (int(rng.integers(2, side - 20)) for side in size)
            frames[:, top : top + 16, left : left + 16] = (250, 220, 200)
            masks[:, top : top + 16, left : left + 16] = 255
            lines += [
                f"{name},{frame},{left},{top},{left + 15},{top + 15}" for frame in range(num_frames)
            ]
        write_frames(folder / name, frames)
        write_frames(folder / "masks" / name, np.repeat(masks[..., None], 3, axis=-1))
        split = (*splits, "test")[(number // 2) % (len(splits) + 1)]
        labels = {"polyp": "polyp" if has_polyp else "normal"}
        segments.append(
            Segment(folder, name, 0, num_frames, name, split, labels, f"masks/{name}", "boxes.csv")
        )
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_manifest(folder / "manifest.csv", segments)
    return folder / "manifest.csv"


def small_finetune(manifest: Path, out: Path, **changes) -> FinetuneConfig:
    """A run of a few steps from random weights; `changes` are options of any section."""
    config = FinetuneConfig(
        weights="none",
        data=LabelledConfig(
            manifests=(manifest,), label="polyp", frames=2, pixels=32, workers=0, val_share=0.34
        ),
        task=TaskConfig(),
        model=ModelOptions(name="timesformer_mini", patch_pixels=8, drop_path=0.0),
        tuning=TuningConfig(),
        optim=TuneOptimConfig(epochs=2, batch_size=2, lr_per_256=0.1, warmup_epochs=0),
        run=RunOptions(out=out, log_every=2),
    )
    sections = {}
    for section in ("data", "task", "model", "tuning", "optim", "run"):
        own = getattr(config, section)
        names = [name for name in changes if name in type(own).__dataclass_fields__]
        sections[section] = replace(own, **{name: changes.pop(name) for name in names})
    return replace(config, **sections, **changes)
