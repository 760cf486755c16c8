"""After the last step: the teacher's backbone as a model folder."""

import hashlib
from pathlib import Path
from typing import cast

from endofm import __version__, hub
from endofm.data.views import STATISTICS
from endofm.models.input import InputSpec
from endofm.models.timesformer import TimeSformer
from endofm.tasks.pretraining import PretrainingTask
from endofm.training.setup import Run
from pretrain.config import PretrainConfig
from pretrain.plan import Plan


def export(config: PretrainConfig, task: PretrainingTask, plan: Plan, run: Run) -> Path:
    """Write the teacher's backbone to the run's `model` folder; its path."""
    folder = run.folder / "model"
    if run.accelerator.is_main_process:
        mean, std = STATISTICS[config.views.statistics]
        spec = InputSpec(mean, std, max(config.views.global_frames), config.views.global_pixels)
        provenance = {
            "trained by": f"endofm {__version__}, `python -m pretrain`",
            "steps": plan.steps,
            "clips a step": plan.batches.global_batch,
            "seed": config.run.seed,
            "started from": Path(config.model.init_from).name or "random weights",
            "corpus": ", ".join(_fingerprint(path) for path in config.data.manifests),
        }
        hub.save(folder, cast(TimeSformer, task.teacher.backbone), spec, provenance)
    run.accelerator.wait_for_everyone()
    return folder


def _fingerprint(manifest: Path) -> str:
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return f"{manifest.name} (sha256 {digest[:16]})"
