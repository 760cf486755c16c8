"""Backbones by name: a plain dictionary of builders."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from endofm.errors import ConfigError
from endofm.models.rpa3d import RPA3D, RPA3DConfig
from endofm.models.stfm import STFM, STFMConfig
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from endofm.models.vipttnet import ViPTTNet, ViPTTNetConfig

Backbone = TimeSformer | RPA3D | ViPTTNet | STFM
"""What gives features and tokens of clips: `forward`, `tokens`, `width`, `patch_pixels`, `config`,
`input_spec`.
"""

Config = TypeVar("Config", TimeSformerConfig, RPA3DConfig, ViPTTNetConfig, STFMConfig)
STFM_PREFIX = "stfm_"
"""Before any CNN of timm."""


def build_timesformer(**settings: Any) -> TimeSformer:
    """A TimeSformer with random weights, from the fields of `TimeSformerConfig`."""
    return TimeSformer(_checked(TimeSformerConfig, "A TimeSformer", settings))


def build_rpa3d(**settings: Any) -> RPA3D:
    """An RPA 3D CNN with random weights, from the fields of `RPA3DConfig`."""
    return RPA3D(_checked(RPA3DConfig, "An RPA 3D CNN", settings))


def build_vipttnet(**settings: Any) -> ViPTTNet:
    """A ViPTT-Net with random weights, from the fields of `ViPTTNetConfig`."""
    return ViPTTNet(_checked(ViPTTNetConfig, "A ViPTT-Net", settings))


def build_stfm(**settings: Any) -> STFM:
    """An STFM with random weights, from the fields of `STFMConfig`."""
    return STFM(_checked(STFMConfig, "An STFM", settings))


BUILDERS: dict[str, Callable[..., Backbone]] = {
    "timesformer_mini": partial(build_timesformer, width=128, depth=2, num_heads=2),
    "timesformer_tiny": partial(build_timesformer, width=192, depth=12, num_heads=3),
    "timesformer_small": partial(build_timesformer, width=384, depth=12, num_heads=6),
    "timesformer_base": partial(build_timesformer, width=768, depth=12, num_heads=12),
    "rpa3d": build_rpa3d,
    "rpa3d_full3d": partial(build_rpa3d, convolution="3d"),
    "rpa3d_no_attention": partial(build_rpa3d, has_attention=False),
    "stfm_resnet18": partial(build_stfm, stem="resnet18"),
    "stfm_resnet50": partial(build_stfm, stem="resnet50"),
    "vipttnet": build_vipttnet,
    "vipttnet_mini": partial(build_vipttnet, cnn="test_resnet", recurrent_width=64, width=128),
}


def create_model(name: str, **overrides: Any) -> Backbone:
    """The backbone of that name with random weights; `overrides` are fields of its configuration.

    After `stfm_` any CNN of timm may stand. Raises `ConfigError` for an unknown name or field,
    naming the nearest.
    """
    if name not in BUILDERS and name.startswith(STFM_PREFIX):
        return build_stfm(stem=name.removeprefix(STFM_PREFIX), **overrides)
    if name not in BUILDERS:
        raise ConfigError(f"There is no model {name!r}; {_nearest(name, list_models())}.")
    return BUILDERS[name](**overrides)


def list_models() -> list[str]:
    """The names `create_model` knows."""
    return sorted(BUILDERS)


def _checked(kind: type[Config], called: str, settings: Mapping[str, Any]) -> Config:
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"{called} has no setting {name!r}; {_nearest(name, known)}.")
    return kind(**settings)


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known)
    if matches:
        return f"did you mean {' or '.join(matches)}"
    return f"choose one of {', '.join(known)}"
