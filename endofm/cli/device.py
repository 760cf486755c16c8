"""Where a command computes."""

import torch

from endofm.errors import ConfigError
from endofm.models.timesformer import TimeSformer
from endofm.training.matmul import use_fast_products

Device = str | None


def place(model: TimeSformer, device: Device) -> TimeSformer:
    """The model on a device such as `cpu`, `cuda` or `cuda:1`; `None`: the GPU if there is one.

    Raises `ConfigError` where there is no such device.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        model = model.to(chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device '{name}' can't be used here ({str(error).splitlines()[0]}); choose cpu."
        ) from error
    if chosen.type == "cpu":
        use_fast_products()
    return model
