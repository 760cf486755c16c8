"""After the last step: the teacher's backbone as a model folder."""

import hashlib
from pathlib import Path

from endofm import __version__, hub
from endofm.data.pretraining.views import STATISTICS
from endofm.models.build import build_backbone
from endofm.models.input import InputSpec
from endofm.tasks.pretraining.endofm import PretrainingTask
from endofm.tasks.pretraining.vcl import ConceptTask
from endofm.training.setup import Run
from endofm.training.sharding import whole_state

from .config import PretrainConfig
from .plan import Plan


def export(
    config: PretrainConfig, task: PretrainingTask | ConceptTask, plan: Plan, steps: int, run: Run
) -> Path:
    """Write the teacher's backbone after `steps` steps to the run's `model` folder; its path."""
    folder = run.folder / "model"
    weights = whole_state(task.teacher.backbone)
    if run.accelerator.is_main_process:
        mean, std = STATISTICS[config.views.statistics]
        spec = InputSpec(mean, std, max(config.views.global_frames), config.views.global_pixels)
        provenance = {
            "trained by": f"endofm {__version__}, `python -m pretrain`",
            "steps": steps,
            "clips a step": plan.batches.global_batch,
            "seed": config.run.seed,
            "started from": Path(config.model.init_from).name or "random weights",
            "corpus": ", ".join(_fingerprint(path) for path in config.data.manifests),
        }
        backbone = build_backbone(
            config.model, config.views.global_pixels, config.views.global_frames[0]
        )
        backbone.load_state_dict(weights)
        hub.save(folder, backbone, spec, provenance)
    run.accelerator.wait_for_everyone()
    return folder


def _fingerprint(manifest: Path) -> str:
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return f"{manifest.name} (sha256 {digest[:16]})"
