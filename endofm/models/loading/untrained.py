"""Signs in a network's tensors that it was never trained, or is broken.

Each sign is exact or nearly so: training moves every bias off zero and every norm off one.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from endofm.models.loading.weights import some

INITIAL_STD = 0.02
FEW = 256  # values below which a spread says little


def suspicions(tensors: Mapping[str, Tensor]) -> list[str]:
    """Sentences on tensors that are not finite, constant, or still as a new network has them.

    Norms and layers are looked at as pairs `*.weight`, `*.bias`.
    """
    floating = {name: t.detach().float() for name, t in tensors.items() if t.is_floating_point()}
    broken = [name for name, t in floating.items() if not torch.isfinite(t).all()]
    sound = {name: t for name, t in floating.items() if name not in broken}
    found = [_sentence(broken, "hold NaN or infinity: the weights are broken")] if broken else []
    signs: tuple[tuple[Callable[[str, Mapping[str, Tensor]], bool], str], ...] = (
        (_is_zero_weight, "are zero throughout: never trained, or erased"),
        (_is_constant, "have one value throughout: never trained, or overwritten"),
        (_is_new_norm, "are norms of exactly one and zero: never trained"),
        (_is_new_layer, "are layers with a new network's random weights: never trained"),
    )
    for sign, told in signs:
        names = [name for name in sound if sign(name, sound)]
        if names:
            found.append(_sentence(names, told))
    return found


def are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two networks have the same names and values."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _sentence(names: list[str], told: str) -> str:
    return f"{len(names)} tensors {told} ({some(names)})"


def _is_zero_weight(name: str, tensors: Mapping[str, Tensor]) -> bool:
    is_bias = name.endswith("bias")  # a bias is judged with its weight
    return not is_bias and tensors[name].numel() > 0 and not tensors[name].any()


def _is_constant(name: str, tensors: Mapping[str, Tensor]) -> bool:
    values = tensors[name]
    if values.numel() < 2 or not values.any() or _is_new_norm(name, tensors):
        return False
    return bool((values == values.flatten()[0]).all())


def _is_new_norm(name: str, tensors: Mapping[str, Tensor]) -> bool:
    weight, bias = tensors[name], tensors.get(_bias_of(name))
    if not name.endswith("weight") or weight.ndim != 1 or bias is None:
        return False
    return bool((weight == 1).all()) and not bias.any()


def _is_new_layer(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """A zero bias beside a spread of 0.02 (ViTs), or PyTorch's uniform start of both."""
    weight, bias = tensors[name], tensors.get(_bias_of(name))
    if not name.endswith("weight") or weight.ndim < 2 or bias is None or weight.numel() < FEW:
        return False
    spread = float(weight.std())
    noise = 4 / math.sqrt(2 * weight.numel())  # of a measured spread, four deviations wide
    if not bias.any():
        return abs(spread / INITIAL_STD - 1) < noise
    bound = 1 / math.sqrt(weight[0].numel())
    most = float(weight.abs().max())
    return (
        most <= bound * (1 + 1e-6)
        and abs(spread * math.sqrt(3) / bound - 1) < noise
        and float(bias.abs().max()) <= bound * (1 + 1e-6)
        and most > bound * (1 - 20 / weight.numel())
    )


def _bias_of(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"
