"""Small networks with weights by rule, wrapped as published files wrap them."""

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from endofm.models.registry import create_model
from endofm.models.timesformer import TimeSformer

SMALL = {"width": 64, "depth": 2, "num_heads": 1, "image_pixels": 48, "mlp_ratio": 2.0}


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every parameter set, none of them as in a new network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = name.endswith("weight") and parameter.ndim == 1
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.1 * noise)
    return model.eval()


def video_model(seed: int = 0, **overrides) -> TimeSformer:
    return filled(create_model("timesformer_tiny", **SMALL | overrides), seed)


def image_model(**overrides) -> VisionTransformer:
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 1, "img_size": 48, "mlp_ratio": 2.0}
    return filled(VisionTransformer(**sizes | {"num_classes": 0} | overrides))


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def with_head(tensors):
    """A backbone's names and DINO's projection head, as Endo-FM and SVT publish them."""
    head = {"head.mlp.0.weight": torch.ones(8, 64), "head.last_layer.weight_g": torch.ones(9, 1)}
    return prefixed(tensors, "backbone.") | head


def run_of(student: TimeSformer, teacher: TimeSformer):
    """Endo-FM's run checkpoint."""
    return {
        "student": prefixed(with_head(student.state_dict()), "module."),
        "teacher": with_head(teacher.state_dict()),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 30,
        "dino_loss": {"center": torch.zeros(1, 9)},
    }


def polypdiag_of(model: TimeSformer):
    """Endo-FM's fine-tuned classifier."""
    linear = {"module.linear.weight": torch.ones(2, 64), "module.linear.bias": torch.ones(2)}
    return {
        "epoch": 20,
        "state_dict": linear,
        "backbone_state_dict": prefixed(model.state_dict(), "module."),
        "optimizer": {},
        "scheduler": {},
    }


def timesformer_of(model: TimeSformer):
    """TimeSformer's .pyth."""
    classifier = {"head.weight": torch.ones(4, 64), "head.bias": torch.ones(4)}
    tensors = prefixed(model.state_dict() | classifier, "model.")
    return {"epoch": 15, "model_state": tensors, "optimizer_state": {}, "cfg": "TRAIN:\n"}


HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
HUGGING_FACE_ENDS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def hugging_face_of(model: TimeSformer, prefix: str = "timesformer."):
    """TimesformerForVideoClassification's names."""
    tensors = {"classifier.weight": torch.ones(4, 64), "classifier.bias": torch.ones(4)}
    for name, tensor in model.state_dict().items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            theirs = f"encoder.layer.{number}.{HUGGING_FACE_BLOCK[part]}.{kind}"
        else:
            theirs = HUGGING_FACE_ENDS[name]
        tensors[prefix + theirs] = tensor
    return tensors


def clip_of(frames=8, pixels=48, channels=3):
    """Two clips by rule."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, frames, pixels, pixels, generator=generator)


def save(content, path):
    """The content as a file of the path's kind; the path."""
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return path
