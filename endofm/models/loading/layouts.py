"""What a weight file is: its kind by names and wrappings, its tensors under the backbone's names.

Shapes: h w patches, T frames, D width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from endofm.errors import WeightsError
from endofm.models.loading.weights import Checkpoint, some

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS: Statistics = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the input statistics that belong to it."""

    title: str
    statistics: Statistics
    source: str
    """Where the statistics are from."""
    is_image: bool = False
    is_sure: bool = True
    """Whether the file's layout tells the statistics; otherwise they are a guess to be said."""


ENDO_FM = Kind(
    "Endo-FM's layout: a run's student and teacher", IMAGENET, "Endo-FM's pretraining views"
)
ENDO_FM_LV = Kind(
    "EndoFM-LV's layout: a run's student and teacher, 32 frames",
    IMAGENET,
    "Endo-FM's pretraining views, on whose code EndoFM-LV stands",
)
SVT = Kind(
    "SVT's layout: one network, flat",
    KINETICS,
    "DATA.MEAN and DATA.STD in SVT's utils/defaults.py, with which it evaluates",
)
TIMESFORMER = Kind(
    "TimeSformer's layout: model_state",
    KINETICS,
    "DATA.MEAN and DATA.STD in TimeSformer's defaults.py",
)
TIMESFORMER_HF = Kind(
    "a TimeSformer under Hugging Face's names", KINETICS, "TimeSformer's own, from which they come"
)
POLYPDIAG = Kind(
    "Endo-FM's PolypDiag layout: a fine-tuned backbone and its classifier",
    KINETICS,
    "Endo-FM's PolypDiag fine-tuning",
)
BARE = Kind(
    "a TimeSformer under its plain names", IMAGENET, "a guess, as in Endo-FM", is_sure=False
)
DINO = Kind("a DINO run's image ViT: student and teacher", IMAGENET, "DINO's views", is_image=True)
DINOV2 = Kind("a DINOv2 image ViT", IMAGENET, "DINOv2's views", is_image=True)
IMAGE = Kind("an image ViT", IMAGENET, "a guess, as for most of timm", is_image=True, is_sure=False)

HUGGING_FACE = {  # TimesformerModel's names, as a pattern -> ours
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.time_embeddings": "time_embed",
    r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"encoder\.layer\.(\d+)\.temporal_attention\.attention\.qkv": r"blocks.\1.temporal_attn.qkv",
    r"encoder\.layer\.(\d+)\.temporal_attention\.output\.dense": r"blocks.\1.temporal_attn.proj",
    r"encoder\.layer\.(\d+)\.attention\.attention\.qkv": r"blocks.\1.attn.qkv",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense": r"blocks.\1.attn.proj",
    r"encoder\.layer\.(\d+)\.temporal_layernorm": r"blocks.\1.temporal_norm1",
    r"encoder\.layer\.(\d+)\.temporal_dense": r"blocks.\1.temporal_fc",
    r"encoder\.layer\.(\d+)\.layernorm_before": r"blocks.\1.norm1",
    r"encoder\.layer\.(\d+)\.layernorm_after": r"blocks.\1.norm2",
    r"encoder\.layer\.(\d+)\.intermediate\.dense": r"blocks.\1.mlp.fc1",
    r"encoder\.layer\.(\d+)\.output\.dense": r"blocks.\1.mlp.fc2",
    r"layernorm": "norm",
}
OTHER_NETWORKS = {  # a pattern in the names -> a network that is not this one
    r"relative_position_bias_table$": "a Swin transformer",
    r"\.(q_bias|v_bias)$": (
        "a VideoMAE or BEiT, whose patches or attention are others (VideoMAE's span two frames)"
    ),
    r"^videomae\.": "a VideoMAE, whose patches span two frames",
    r"^layer[1-4]\.\d+\.(conv|downsample)": "a ResNet",
    r"^(stages|downsample_layers)\.\d": "a network of stages, such as ConvNeXt",
    r"^(visual|vision_model|text_model|transformer\.resblocks)\.": "a CLIP",
    r"attention\.attention\.query\.weight$": (
        "a ViT under Hugging Face's names; give timm's file, or `timm:NAME`,"
    ),
    r"^features\.\d+\.": "a torchvision network",
}


@dataclass(frozen=True)
class Recognized:
    """A file's network under the backbone's names."""

    kind: Kind
    tensors: dict[str, Tensor]
    names: dict[str, str]
    """Our name -> name in the file."""
    left_out: Mapping[str, str]
    """Entries of the file beside the network, and why they are left."""
    started: dict[str, str]
    """Our names that the file lacks by its design, and how they start."""


def recognize(checkpoint: Checkpoint) -> Recognized:
    """The file's kind and its tensors by our names; raises `WeightsError` for other networks."""
    tensors = {_our_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    names = {_our_name(name): original for name, original in checkpoint.names.items()}
    if len(tensors) < len(checkpoint.tensors):
        raise WeightsError(f"{checkpoint.path} has tensors twice, under two kinds of names.")
    _refuse_other_networks(checkpoint, tensors)
    kind = _kind(checkpoint, tensors)
    started = _add_zero_biases(tensors)
    return Recognized(kind, tensors, names, checkpoint.left_out, started)


def _our_name(name: str) -> str:
    short = name.removeprefix("timesformer.")
    for pattern, ours in HUGGING_FACE.items():
        if found := re.fullmatch(rf"{pattern}(\.weight|\.bias)?", short):
            return found.expand(ours) + (found[found.re.groups] or "")
    # DINOv2's training cuts its blocks into chunks and keeps the blocks' own numbers in them.
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", short)


def _refuse_other_networks(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    for pattern, what in OTHER_NETWORKS.items():
        if any(re.search(pattern, name) for name in tensors):
            raise WeightsError(
                f"{checkpoint.path} holds {what} and is no TimeSformer or plain image ViT; "
                "only those fit the backbone."
            )
    patches = tensors.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 5:
        raise WeightsError(
            f"{checkpoint.path} cuts patches over {patches.shape[2]} frames (a VideoMAE or ViViT), "
            "while a TimeSformer cuts every frame alone; its weights don't fit the backbone."
        )
    if not any(re.match(r"blocks\.\d+\.attn\.", name) for name in tensors):
        raise WeightsError(
            f"{checkpoint.path} holds a network that is not known here ({some(list(tensors))}); "
            "TimeSformers and plain image ViTs fit the backbone."
        )


def _kind(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> Kind:
    wrapping = checkpoint.wrapping
    is_run = bool({"student", "teacher"} & set(wrapping))
    is_hugging_face = any("encoder.layer." in name for name in checkpoint.names.values())
    in_time = any(name == "time_embed" or ".temporal_" in name for name in tensors)
    if is_hugging_face:
        return TIMESFORMER_HF
    if "model_state" in wrapping:
        return TIMESFORMER
    if not in_time:
        of_dinov2 = ("mask_token", "dino_head.", "ibot_head.", "register_tokens")
        if any(name.startswith(of_dinov2) for name in tensors):
            return DINOV2
        return DINO if is_run else IMAGE
    if "backbone_state_dict" in wrapping:
        return POLYPDIAG
    if is_run:
        times = tensors.get("time_embed")
        return ENDO_FM_LV if times is not None and times.shape[1:2] == (32,) else ENDO_FM
    flat = not wrapping and any("backbone." in name for name in checkpoint.names.values())
    return SVT if flat else BARE


def _add_zero_biases(tensors: dict[str, Tensor]) -> dict[str, str]:
    """A network made without biases of query, key and value computes as with zeros there."""
    started = {}
    for part in ("attn", "temporal_attn"):
        weights = [name for name in tensors if name.endswith(f".{part}.qkv.weight")]
        biases = [f"{name.removesuffix('weight')}bias" for name in weights]
        if any(name in tensors for name in biases):
            continue
        for weight, bias in zip(weights, biases, strict=True):
            tensors[bias] = torch.zeros(tensors[weight].shape[0])
            started[bias] = "zero: this network has no bias there"
    return started
