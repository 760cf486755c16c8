"""Which weights of a network are trained, and how fast each layer moves."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import nn

from endofm.errors import ConfigError
from endofm.models.adapters import add_lora, add_st_adapters
from endofm.models.released_segmentation import ReleasedSegmentation
from endofm.models.timesformer import Block, TimeSformer

Encoder = TimeSformer | ReleasedSegmentation
"""What is pretrained; of the released segmentation model without its decoder and last layer."""
NOT_ENCODER = ("decoder.", "head.")
ADAPTER_WIDTH = 384
LORA_RANK = 8


@dataclass(frozen=True)
class TuningConfig:
    """What of the network is trained."""

    method: Literal["full", "head", "last_blocks", "st_adapter", "lora", "knn", "linear_probe"] = (
        "full"
    )
    """Everything; only the head; the head and the last blocks, ST-Adapters or LoRA; or, for
    classification, nothing: nearest neighbours or logistic regression on frozen features.
    """
    blocks: int = 2
    """How many last blocks `last_blocks` trains."""
    layer_decay: float = 1.0
    """Each layer further from the head learns by this factor more slowly; 1: all alike."""
    adapter_width: int = 0
    """Width of an ST-Adapter, or rank of LoRA; 0: 384 and 8."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if self.blocks < 1 or self.adapter_width < 0 or not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"tuning.blocks {self.blocks} is at least 1, tuning.adapter_width "
                f"{self.adapter_width} at least 0, tuning.layer_decay {self.layer_decay} above 0 "
                "and at most 1."
            )

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.method not in ("knn", "linear_probe")


def prepare_encoder(encoder: Encoder, tuning: TuningConfig) -> None:
    """Add what the way to tune adds to an encoder, and freeze what it freezes.

    Raises `ConfigError` for adapters in the released segmentation model, and for more blocks than
    there are.
    """
    method = tuning.method
    if method == "full":
        return
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_is_apart(encoder, name))
    if method in ("st_adapter", "lora"):
        add_adapters(encoder, tuning)
    elif method == "last_blocks":
        if tuning.blocks > len(encoder.blocks):
            raise ConfigError(
                f"tuning.blocks is {tuning.blocks}, but the network has {len(encoder.blocks)} "
                "blocks; give fewer, or tuning.method full."
            )
        for block in encoder.blocks[-tuning.blocks :]:
            block.requires_grad_(True)
        encoder.norm.requires_grad_(True)


def add_adapters(encoder: Encoder, tuning: TuningConfig) -> None:
    """ST-Adapters or LoRA, by the method's name; they start as the identity."""
    if not isinstance(encoder, TimeSformer):
        raise ConfigError(
            f"tuning.method {tuning.method} is for plain backbones; train the released "
            "segmentation model by full, head or last_blocks."
        )
    if tuning.method == "lora":
        rank = tuning.adapter_width or LORA_RANK
        add_lora(encoder, rank=rank, alpha=2.0 * rank)
    else:
        add_st_adapters(encoder, tuning.adapter_width or ADAPTER_WIDTH)


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

    Layer 0 is the embeddings, layer i block i, the last one the norm and all beyond the encoder
    (Clark et al.: ELECTRA, ICLR 2020; Bao et al.: BEiT, ICLR 2022).
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


def set_training_options(encoder: Encoder, drop_path: float, gradient_checkpointing: bool) -> None:
    """Options of training that belong to no weights, on a loaded model."""
    last = max(len(encoder.blocks) - 1, 1)
    for number, block in enumerate(encoder.blocks):
        cast(Block, block).drop_path.drop_prob = drop_path * number / last
    if isinstance(encoder, TimeSformer):
        encoder.config = replace(
            encoder.config, drop_path=drop_path, gradient_checkpointing=gradient_checkpointing
        )
    elif gradient_checkpointing:
        raise ConfigError(
            "model.gradient_checkpointing is for plain backbones; the released segmentation model "
            "does without."
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
    return last if name.startswith("norm.") or _is_apart(encoder, name) else 0
