"""Which weights of a network are trained, and how fast each layer moves."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import nn

from endofm.errors import ConfigError
from endofm.models.adapters import add_lora, add_st_adapters
from endofm.models.registry import Backbone
from endofm.models.released_segmentation import ReleasedSegmentation
from endofm.models.rpa3d import RPA3D
from endofm.models.stfm import STFM
from endofm.models.timesformer import Block, TimeSformer
from endofm.models.vipttnet import ViPTTNet

Encoder = Backbone | ReleasedSegmentation
"""What is pretrained; of the released segmentation model without its decoder and last layer."""
NOT_ENCODER = ("decoder.", "head.")
LAST_NORM = "norm."
LAST_BLOCKS = 2
ADAPTER_WIDTH = 384
LORA_RANK = 8
DROP_PATH = 0.1
"""Of a transformer, where nothing else is asked for."""


@dataclass(frozen=True)
class TuningConfig:
    """What of the network is trained."""

    method: Literal[
        "full",
        "frozen_norm",
        "head",
        "last_blocks",
        "st_adapter",
        "lora",
        "knn",
        "linear_probe",
    ] = "full"
    """Everything; all but batch norms, which stay as the weights have them; only the head; the head
    and the last blocks, ST-Adapters or LoRA; or, for classification, nothing: nearest neighbours or
    logistic regression on frozen features.
    """
    size: int = 0
    """How many last blocks `last_blocks` trains, width of an ST-Adapter, or rank of LoRA; 0: 2, 384
    and 8.
    """
    layer_decay: float = 1.0
    """Each layer further from the head learns by this factor more slowly; 1: all alike."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.size < 0 or not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"tuning.size {self.size} is at least 0, tuning.layer_decay {self.layer_decay} "
                "above 0 and at most 1."
            )

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.method not in ("knn", "linear_probe")


def prepare_encoder(encoder: Encoder, tuning: TuningConfig) -> None:
    """Add what the way to tune adds to an encoder, and freeze what it freezes.

    The blocks of a CNN are its stages. Raises `ConfigError` for adapters in what is no plain video
    transformer, and for more blocks than there are.
    """
    method = tuning.method
    if method == "full":
        return
    if method == "frozen_norm":
        freeze_norms(encoder)
        return
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_is_apart(encoder, name))
    if method in ("st_adapter", "lora"):
        add_adapters(encoder, tuning)
    elif method == "last_blocks":
        last = tuning.size or LAST_BLOCKS
        if last > len(encoder.blocks):
            raise ConfigError(
                f"tuning.size is {last}, but the network has {len(encoder.blocks)} blocks; give "
                "fewer, or tuning.method full."
            )
        for block in encoder.blocks[-last:]:
            block.requires_grad_(True)
        for name, parameter in encoder.named_parameters():
            if name.startswith(LAST_NORM):
                parameter.requires_grad_(True)


def freeze_norms(encoder: Encoder) -> None:
    """Keep the weights and running statistics of every batch norm; raises `ConfigError` for none.

    Few clips make poor statistics. What has nothing to train stays in evaluation (`train_mode`).
    """
    norms = [one for one in encoder.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise ConfigError(
            f"tuning.method frozen_norm is for networks with batch norm, and this "
            f"{type(encoder).__name__} has none; take full."
        )
    for norm in norms:
        norm.requires_grad_(False)


def add_adapters(encoder: Encoder, tuning: TuningConfig) -> None:
    """ST-Adapters or LoRA, by the method's name; they start as the identity."""
    if not isinstance(encoder, TimeSformer):
        raise ConfigError(
            f"tuning.method {tuning.method} is for plain video transformers; the "
            f"{type(encoder).__name__} is trained by full, head or last_blocks."
        )
    if tuning.method == "lora":
        rank = tuning.size or LORA_RANK
        add_lora(encoder, rank=rank, alpha=2.0 * rank)
    else:
        add_st_adapters(encoder, tuning.size or ADAPTER_WIDTH)


def train_mode(network: nn.Module, encoder: Encoder) -> None:
    """Training mode, but for the parts of the encoder that have nothing to train."""
    network.train()
    for module in encoder.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def parameter_groups(
    network: nn.Module, encoder: Encoder, layer_decay: float
) -> list[dict[str, Any]]:
    """Trainable parameters by layer, with and without weight decay (none on 1-D tensors).

    Layer 0 is the embeddings (of a CNN its stem), layer i block i (stage i), the last one the norm
    and all beyond the encoder (Clark et al.: ELECTRA, ICLR 2020; Bao et al.: BEiT, ICLR 2022).
    """
    last = len(encoder.blocks) + 1
    layers = {
        id(parameter): _layer(encoder, name, last) for name, parameter in encoder.named_parameters()
    }
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            groups[layers.get(id(parameter), last), decays].append(parameter)
    return [
        {"params": members, "decays": decays, "scale": layer_decay ** (last - layer)}
        for (layer, decays), members in sorted(groups.items())
    ]


def set_training_options(
    encoder: Encoder, drop_path: float | None, gradient_checkpointing: bool
) -> None:
    """Options of training that belong to no weights, on a loaded model.

    Raises `ConfigError` for one that the model does without.
    """
    if gradient_checkpointing and not isinstance(encoder, TimeSformer):
        raise ConfigError(
            "model.gradient_checkpointing is for plain video transformers; the "
            f"{type(encoder).__name__} does without."
        )
    if isinstance(encoder, RPA3D | ViPTTNet | STFM):
        if drop_path:
            raise ConfigError(
                f"model.drop_path is {drop_path}, but the {type(encoder).__name__} has no branches "
                "to drop; leave it out."
            )
        return
    drop_path = DROP_PATH if drop_path is None else drop_path
    last = max(len(encoder.blocks) - 1, 1)
    for number, block in enumerate(encoder.blocks):
        cast(Block, block).drop_path.drop_prob = drop_path * number / last
    if isinstance(encoder, TimeSformer):
        encoder.config = replace(
            encoder.config, drop_path=drop_path, gradient_checkpointing=gradient_checkpointing
        )


def trained_share(network: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and all."""
    every = list(network.parameters())
    return sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every)


def _is_apart(encoder: Encoder, name: str) -> bool:
    return isinstance(encoder, ReleasedSegmentation) and name.startswith(NOT_ENCODER)


def _layer(encoder: Encoder, name: str, last: int) -> int:
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return last if name.startswith(LAST_NORM) or _is_apart(encoder, name) else 0
