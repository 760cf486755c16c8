"""What is measured: a recipe's model and views, and the ways a step is taken."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from endofm.bench.clock import TimeOf
from endofm.config import parse_config
from endofm.data.pretraining.dataset import DataConfig
from endofm.data.pretraining.views import ViewsConfig
from endofm.errors import ConfigError
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining.endofm import ObjectiveConfig
from endofm.training.matmul import use_fast_products
from endofm.training.optim import OptimConfig
from endofm.training.setup import RunConfig


@dataclass(frozen=True)
class Recipe:
    """The sections of a pretraining recipe."""

    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and for which run."""

    model: str = ""
    """A backbone's name instead of the recipe's."""
    recipe: Path | None = None
    """A pretraining recipe (YAML); by default the paper's: ViT-B/16, ten views, 30 epochs."""
    batch_size: int = 1
    """Clips of a step."""
    clips: int = 33000
    """Clips of the corpus, for the time of a whole run; the paper's has 33,000."""
    manifest: Path | None = None
    """Clips to read; by default one of 150 frames, 256 x 320 pixels, is made."""
    device: str = ""
    """`cpu` or `cuda`; by default the GPU if there is one."""
    threads: int = 0
    """Threads of a CPU; 0: as PyTorch chooses."""
    repetitions: int = 3
    """Steps in every way, in turn; the medians count."""
    time_of: TimeOf = "wall"
    """Seconds of the clock, or of the processor where other programs run beside this one."""
    quick: bool = False
    """One repetition, float32 and bf16 only, no memory."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        for name in ("batch_size", "clips", "repetitions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; give 1 or more.")
        if self.threads < 0:
            raise ConfigError(f"--threads is {self.threads}; give 0 or more.")

    def read_recipe(self) -> Recipe:
        """The recipe, with what is given here instead of its own."""
        flags = ["--model.name", self.model] if self.model else []
        recipe = parse_config(Recipe, flags, self.recipe, "endofm bench", "", "--recipe")
        if recipe.model.attention != "divided_space_time":
            raise ConfigError(
                f"The recipe's model.attention is {recipe.model.attention}, which the plain "
                "reference does not know; measure divided_space_time."
            )
        if recipe.objective.kind == "vcl":
            raise ConfigError(
                "The recipe's objective.kind is vcl, which the plain reference does not know; "
                "measure endofm."
            )
        return recipe

    def find_device(self) -> torch.device:
        """Where the step runs."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"There is no device {self.device} here; measure cpu.")
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


class Way(NamedTuple):
    """One way of taking a step."""

    code: Literal["ours", "reference"]
    precision: Literal["no", "bf16"]
    fast_products: bool = False
    """Float32 products of a CPU by oneDNN (`endofm.training.matmul`)."""
    checkpointing: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """For people."""
        words = [self.code, "float32" if self.precision == "no" else "bf16"]
        words += ["oneDNN"] * self.fast_products + ["checkpointing"] * self.checkpointing
        return ", ".join(words + ["compiled"] * self.compiled)


REFERENCE = Way("reference", "no")


def ways(config: BenchConfig, device: torch.device, has_bf16: bool) -> list[Way]:
    """The ways to compare on this device, the plain reference in float32 first.

    Without `has_bf16` none in bf16: steps of minutes would take hours.
    """
    return [way for way in _ways(config, device) if has_bf16 or way.precision == "no"]


def _ways(config: BenchConfig, device: torch.device) -> list[Way]:
    found = [REFERENCE, Way("ours", "no")]
    if config.quick:
        return [*found, Way("ours", "bf16")]
    if device.type == "cpu" and has_fast_products():
        found.append(Way("ours", "no", fast_products=True))
    found += [Way("reference", "bf16"), Way("ours", "bf16")]
    found.append(Way("ours", "no", checkpointing=True))
    found.append(Way("ours", "bf16", checkpointing=True))
    if device.type == "cuda":
        found.append(Way("ours", "bf16", compiled=True))
    return found


def has_fast_products() -> bool:
    """Whether oneDNN's float32 products are exact here; the setting stays as it is."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    try:
        return use_fast_products()
    finally:
        setting.fp32_precision = before
