"""The options of a program, as a user names them."""

import dataclasses
from collections.abc import Iterator


def option_names(kind: type, prefix: str = "") -> Iterator[str]:
    """`section.name` of every field below a configuration."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from option_names(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def num_options(command: type, recipe: type) -> int:
    """How many a program has, those of its command line included."""
    own = [field for field in dataclasses.fields(command) if field.name != "recipe"]
    return len([*option_names(recipe), *own])
