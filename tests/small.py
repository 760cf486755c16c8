"""A corpus and a recipe that train in seconds."""

from dataclasses import replace
from pathlib import Path

from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.data.pretraining.dataset import DataConfig
from endofm.data.pretraining.views import ViewsConfig
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining.endofm import ObjectiveConfig
from endofm.training.optim import OptimConfig
from endofm.training.setup import RunConfig
from pretrain.config import PretrainConfig
from tests.make import write_video

VIEWS = ViewsConfig(global_frames=(2, 4), local_frames=(2, 2), global_pixels=32, local_pixels=16)


def write_corpus(folder: Path, num_clips: int = 6, num_frames: int = 12) -> Path:
    """Small videos and their manifest."""
    segments = []
    for number in range(num_clips):
        name = f"clip_{number}.mp4"
        write_video(folder / name, num_frames, size=(48, 64), first=40 * number)
        segments.append(Segment(folder, name, 0, num_frames, group=name))
    write_manifest(folder / "manifest.csv", segments)
    return folder / "manifest.csv"


def small_recipe(manifest: Path, out: Path, **changes) -> PretrainConfig:
    """A run of six steps; `changes` are whole sections (`optim=...`) or run options."""
    run = {k: changes.pop(k) for k in list(changes) if k in RunConfig.__dataclass_fields__}
    config = PretrainConfig(
        data=DataConfig(manifests=(manifest,), workers=0, short_side_pixels=48),
        views=VIEWS,
        model=ModelConfig(name="timesformer_mini", patch_pixels=8),
        objective=ObjectiveConfig(prototypes=32),
        optim=OptimConfig(epochs=2, batch_size=2, warmup_epochs=1),
        run=replace(RunConfig(out=out, log_every=2, save_every=100), **run),
    )
    return replace(config, **changes)
