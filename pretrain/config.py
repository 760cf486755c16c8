"""Everything a pretraining run can be told: at most 50 options, each read somewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from endofm.data.pretraining.dataset import DataConfig
from endofm.data.pretraining.views import ViewsConfig
from endofm.errors import ConfigError
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining.endofm import ObjectiveConfig
from endofm.training.optim import OptimConfig
from endofm.training.setup import RunConfig


@dataclass(frozen=True)
class PretrainConfig:
    """A recipe. Defaults are those of the Endo-FM paper, without the released code's quirks."""

    data: DataConfig = DataConfig()
    """Where clips come from."""
    views: ViewsConfig = ViewsConfig()
    """How views are cut from a clip."""
    model: ModelConfig = ModelConfig()
    """Which network."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What the student has to match."""
    optim: OptimConfig = OptimConfig()
    """How long and how fast."""
    run: RunConfig = RunConfig()
    """Where and how."""

    def __post_init__(self) -> None:
        """Refuse views that patches can't tile, and such as the objective has no use for."""
        patch = self.model.patch_pixels
        for name in ("global_pixels", "local_pixels"):
            pixels = getattr(self.views, name)
            if patch < 1 or pixels < patch or pixels % patch:
                raise ConfigError(
                    f"views.{name} is {pixels}, which is not a multiple of model.patch_pixels "
                    f"({patch}); change one of them."
                )
        views = self.views
        fits = len(views.global_frames) == 2 and min(views.global_frames) > 1
        if self.objective.kind == "vcl" and (views.local_frames or not fits):
            raise ConfigError(
                "objective.kind vcl compares two global views of at least two frames, and no local "
                f"ones, but views.global_frames is {list(views.global_frames)} and "
                f"views.local_frames {list(views.local_frames)}; take for example 8 8, and none."
            )


@dataclass(frozen=True)
class Command:
    """Pretrain a video transformer on unlabelled clips; run again, it goes on where it was."""

    recipe: Annotated[PretrainConfig, tyro.conf.arg(name="")] = PretrainConfig()
    config: Path | None = None
    """A recipe (YAML); flags win over it. pretrain/configs/ holds ours."""
    explain: bool = False
    """Say what the run would do and cost, and stop."""
    show_views: Path | None = None
    """Draw the views of some clips to this PNG, and stop."""

    def __post_init__(self) -> None:
        """Refuse a picture of another kind."""
        if self.show_views is not None and self.show_views.suffix.lower() != ".png":
            raise ConfigError(
                f"--show-views draws a PNG, but {self.show_views} doesn't end in .png; give it "
                "that ending."
            )
