"""timm's CNNs as networks of single frames, divided after their first stage."""

import difflib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from endofm.errors import ConfigError, WeightsError
from endofm.models.loading.weight_files import reason

if TYPE_CHECKING:
    from timm.models import FeatureListNet

FIRST_STAGE_PIXELS = 4
"""Pixels from place to place of a CNN's first stage; finer maps belong to what leads there."""


@dataclass(frozen=True)
class FrameCNN:
    """A CNN without its pooling and classifier."""

    stem: nn.Sequential
    """All up to the end of the first stage: [B, 3, H, W] -> [B, stem_channels, h, w]."""
    stages: nn.Sequential
    """The rest: -> [B, channels, h', w']."""
    stem_channels: int
    channels: int
    stride: int
    """Pixels from one place of the last map to the next."""
    mean: tuple[float, float, float]
    """Input statistics of timm's weights."""
    std: tuple[float, float, float]


def frame_cnn(name: str) -> FrameCNN:
    """The CNN of timm by that name with random weights.

    Raises `ConfigError` for a name that timm does not know, or one that gives no feature maps of
    several sizes.
    """
    import timm

    if name not in timm.list_models():  # with a tag it would still be a name of weights
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models())
        meant = f"did you mean {' or '.join(near)}" if near else "timm.list_models() lists them"
        raise ConfigError(f"timm has no model {name!r}; {meant}.")
    return _divided(name, timm.create_model(name))


def load_frame_cnn(stem: nn.Module, stages: nn.Module, source: str | Path) -> FrameCNN:
    """Put timm's weights into the two parts of a `frame_cnn`; returns the CNN they are from.

    `source` is a name of timm with or without a tag (downloaded, or from timm's cache). Raises
    `WeightsError` where they can't be had, or are those of another CNN; nothing is changed then.
    """
    import timm

    try:
        image = _divided(str(source), timm.create_model(str(source), pretrained=True))
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # no network, no disk, no such weights: each has its own kind
        raise WeightsError(
            f"The weights {source} can't be had from timm ({reason(error)}); mind the spelling, "
            "and get them where there is a network."
        ) from error
    pairs = ((stem, image.stem), (stages, image.stages))
    for ours, theirs in pairs:
        shapes, given = ({n: t.shape for n, t in p.state_dict().items()} for p in (ours, theirs))
        if shapes != given:
            differ = sorted(name for name, _ in shapes.items() ^ given.items())
            raise WeightsError(
                f"{source} is another CNN than the model's (tensors differ, such as {differ[0]}); "
                "give weights of the model's own."
            )
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    return image


def _divided(name: str, network: Any) -> FrameCNN:
    features = _features(name, network)
    info = features.feature_info
    sizes, of_maps = info.reduction(), info.channels()
    first = next((n for n, size in enumerate(sizes) if size >= FIRST_STAGE_PIXELS), None)
    if first is None or sizes[first] >= sizes[-1] or _is_channels_last(network):
        raise _no_features(name)
    last_of_stem = info.module_name()[first].replace(".", "_")
    parts = list(features.named_children())
    cut = [part for part, _ in parts].index(last_of_stem) + 1
    known = network.pretrained_cfg
    return FrameCNN(
        nn.Sequential(OrderedDict(parts[:cut])),
        nn.Sequential(OrderedDict(parts[cut:])),
        of_maps[first],
        of_maps[-1],
        sizes[-1],
        tuple(known["mean"]),
        tuple(known["std"]),
    )


def _features(name: str, network: Any) -> "FeatureListNet":
    """What timm makes of a network: as a row of modules that give maps."""
    from timm.models import FeatureListNet

    info = getattr(network, "feature_info", None)
    for flat in (False, True):  # stages are modules of their own, or parts of one
        try:
            places = tuple(range(len(info or ())))
            return FeatureListNet(network, places, flatten_sequential=flat)
        except (AssertionError, AttributeError, IndexError):
            continue
    raise _no_features(name)


def _is_channels_last(network: Any) -> bool:
    return getattr(network, "output_fmt", "NCHW") not in ("NCHW", None)


def _no_features(name: str) -> ConfigError:
    return ConfigError(
        f"timm's {name} gives no feature maps [B, C, H, W] of several sizes, which a CNN of frames "
        "needs; choose one such as resnet18, convnext_tiny or mobilenetv3_large_100."
    )
