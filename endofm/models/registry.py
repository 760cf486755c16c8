"""Backbones by name: a plain dictionary of builders."""

import difflib
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from torch import nn

from endofm.errors import ConfigError
from endofm.models.timesformer import TimeSformer, TimeSformerConfig


def build_timesformer(**settings: Any) -> TimeSformer:
    """A TimeSformer with random weights, from the fields of `TimeSformerConfig`."""
    known = [field.name for field in fields(TimeSformerConfig)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"A TimeSformer has no setting {name!r}; {_nearest(name, known)}.")
    return TimeSformer(TimeSformerConfig(**settings))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "timesformer_mini": partial(build_timesformer, width=128, depth=2, num_heads=2),
    "timesformer_tiny": partial(build_timesformer, width=192, depth=12, num_heads=3),
    "timesformer_small": partial(build_timesformer, width=384, depth=12, num_heads=6),
    "timesformer_base": partial(build_timesformer, width=768, depth=12, num_heads=12),
}


def create_model(name: str, **overrides: Any) -> nn.Module:
    """The backbone of that name with random weights; `overrides` are fields of its configuration.

    Raises `ConfigError` for an unknown name or field, naming the nearest.
    """
    if name not in BUILDERS:
        raise ConfigError(f"There is no model {name!r}; {_nearest(name, list_models())}.")
    return BUILDERS[name](**overrides)


def list_models() -> list[str]:
    """The names `create_model` knows."""
    return sorted(BUILDERS)


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known)
    if matches:
        return f"did you mean {' or '.join(matches)}"
    return f"choose one of {', '.join(known)}"
