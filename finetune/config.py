"""Everything a fine-tuning run can be told: at most 50 options, each read somewhere."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from endofm.data.labelled.samples import CLASSIFICATION, LabelledConfig
from endofm.errors import ConfigError
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.starting import SCRATCH, ModelOptions
from endofm.tasks.finetuning.trainable import TuningConfig
from endofm.training.finetuning import TuneOptimConfig
from endofm.training.setup import RunConfig


@dataclass(frozen=True)
class RunOptions:
    """Where and how the runs run."""

    out: Path = Path("runs/finetune")
    """Folder of the result; one folder for each seed in it. The same command goes on in it."""
    seeds: tuple[int, ...] = (0,)
    """A run for each: initial head, order of clips, every augmentation, and which rows a
    `data.label_share` takes or a balanced draw draws.
    """
    precision: Literal["no", "fp16", "bf16"] = "no"
    """Numbers inside the network: float32 (`no`), or mixed with 16 bits."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where else the metrics go; WANDB_MODE=offline keeps wandb on this machine."""
    patience_seconds: float = 600
    """How long one of many processes may be silent; a clip may take a quarter of it to decode."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(
                f"run.seeds is {list(self.seeds)}; give different numbers of 0 or more."
            )
        if self.log_every < 1:
            raise ConfigError(f"run.log_every is {self.log_every}; give 1 or more.")
        if self.patience_seconds <= 0:
            raise ConfigError(
                f"run.patience_seconds is {self.patience_seconds:g}; give more than 0."
            )


@dataclass(frozen=True)
class FinetuneConfig:
    """A recipe. Defaults judge honestly: chosen on validation, tested once."""

    weights: str = ""
    """A model folder, a weight file, timm:NAME, owner/name on the Hub, a fine-tuned folder, or
    `none` for random ones.
    """
    reset_head: bool = False
    """Start the head anew where the weights have one for another task or other classes."""
    data: LabelledConfig = LabelledConfig()
    """Which clips, and what is shown of them."""
    task: TaskConfig = TaskConfig()
    """What is to be learned."""
    model: ModelOptions = ModelOptions()
    """The network, where the weights don't tell."""
    tuning: TuningConfig = TuningConfig()
    """What of the network is trained."""
    optim: TuneOptimConfig = TuneOptimConfig()
    """How long and how fast."""
    run: RunOptions = RunOptions()
    """Where and how."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        kind = self.task.kind
        if kind not in CLASSIFICATION:
            if self.data.every_frames or self.data.test_views != (1, 1):
                raise ConfigError(
                    f"data.every_frames and data.test_views are for classification; {kind} judges "
                    "every frame."
                )
            if not self.tuning.trains:
                raise ConfigError(
                    f"tuning.method {self.tuning.method} is for classification, not {kind}."
                )
        if self.tuning.method == "frozen_norm" and self.weights == SCRATCH:
            raise ConfigError(
                "tuning.method frozen_norm keeps the batch norms of given weights, and random ones "
                "have none worth keeping; take full, or give --weights."
            )
        if self.tuning.method == "linear_probe" and self.task.head == "attentive":
            raise ConfigError(
                "A linear probe sees pooled features; take task.head default or mean."
            )
        segments = self.data.segments
        if segments != "none" and (kind not in CLASSIFICATION or not self.tuning.trains):
            raise ConfigError(
                f"data.segments {segments} chooses training clips of a classification; there are "
                "none here, leave it out."
            )
        if segments in ("most_certain", "least_certain") and not self.task.evidence:
            raise ConfigError(
                f"data.segments {segments} goes by the uncertainty of an evidential head; give "
                "--task.head evidential, or data.segments random."
            )
        if self.task.evidence and not self.tuning.trains:
            raise ConfigError(
                f"task.head {self.task.head} is trained; take tuning.method head for frozen "
                "features."
            )
        if self.task.protocol == "legacy_polypdiag" and kind != "classification":
            raise ConfigError("task.protocol legacy_polypdiag is for classification.")
        if self.task.protocol == "legacy_cvc12k" and kind != "segmentation":
            raise ConfigError("task.protocol legacy_cvc12k is for segmentation.")

    @property
    def keeps_features(self) -> bool:
        """Whether the backbone's features are computed once: it is frozen, and nothing is drawn."""
        is_pooled = self.task.kind in CLASSIFICATION and self.task.head != "attentive"
        drawn = not self.data.is_plain or self.data.segments != "none"
        frozen = self.tuning.method == "head" and not drawn
        return is_pooled and (frozen or not self.tuning.trains)

    def folder(self, share: float, seed: int) -> Path:
        """Where the run of a share and a seed lies."""
        out = self.run.out
        if len(self.data.label_share) > 1:
            out = out / f"labels_{share:g}"
        return out / f"seed_{seed}"

    def only(self, share: float, seed: int) -> "FinetuneConfig":
        """The recipe of one run, that of its own folder."""
        return replace(
            self,
            data=replace(self.data, label_share=(share,)),
            run=replace(self.run, out=self.folder(share, seed), seeds=(seed,)),
        )

    @property
    def setup(self) -> RunConfig:
        """What a run of one seed is started with; it saves before every validation."""
        run = self.run
        return RunConfig(
            out=run.out,
            seed=run.seeds[0],
            precision=run.precision,
            log_every=run.log_every,
            trackers=run.trackers,
            patience_seconds=run.patience_seconds,
        )


@dataclass(frozen=True)
class Command:
    """Fine-tune a video transformer on labelled clips, choose on validation, test once."""

    recipe: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = FinetuneConfig()
    config: Path | None = None
    """A recipe (YAML); flags win over it. finetune/configs/ holds ours."""
    explain: bool = False
    """Say what the runs would do, and stop."""
