"""One typed object from defaults, a YAML recipe and flags, through one parser (tyro).

A recipe is turned into flags and read before the user's own, so that a misspelt key in a file and
on the command line get the same message.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeVar

import tyro
import yaml

from endofm.errors import ConfigError

Config = TypeVar("Config")


def parse_config(
    kind: type[Config], flags: Sequence[str], recipe: Path | None, prog: str, description: str
) -> Config:
    """Read `kind` from its defaults, then `recipe`, then `flags`; the later wins.

    A wrong key or value ends the program with tyro's message (exit status 2), as does `--help`.
    Raises `ConfigError` for a recipe that is missing or not YAML.
    """
    from_file = [] if recipe is None else recipe_flags(recipe)
    if recipe is not None:
        tyro.cli(kind, args=from_file, prog=str(recipe), description=description)
    return tyro.cli(kind, args=[*from_file, *flags], prog=prog, description=description)


def recipe_flags(recipe: Path) -> list[str]:
    """A YAML recipe as command-line flags."""
    if not recipe.is_file():
        near = (
            sorted(path.name for path in recipe.parent.glob("*.yaml"))
            if recipe.parent.is_dir()
            else []
        )
        hint = f"there are: {', '.join(near)}." if near else "give the path of a YAML file."
        raise ConfigError(f"There is no recipe {recipe}; {hint}")
    try:
        tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recipe {recipe} is not YAML ({reason}); mend it there.") from error
    if tree is None:
        return []
    if not isinstance(tree, dict):
        raise ConfigError(
            f"The recipe {recipe} holds a {type(tree).__name__}, but must hold keys and values."
        )
    return [word for name, value in _leaves(tree) for word in _flag(recipe, name, value)]


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _flag(recipe: Path, name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        head, _, last = name.rpartition(".")
        no = f"--{head}.no-{last}" if head else f"--no-{last}"
        return [option if value else no.replace("_", "-")]
    if isinstance(value, list):
        if any(isinstance(item, list | Mapping) for item in value):
            raise ConfigError(
                f"The recipe {recipe} nests lists under '{name}'; a list holds plain values only."
            )
        return [option, *(str(item) for item in value)]
    return [option, str(value)]


def as_tree(config: Any) -> dict[str, Any]:
    """A configuration as plain values: what YAML and JSON can hold."""
    plain = _plain(dataclasses.asdict(config))
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    return value.value if isinstance(value, Enum) else value


def to_yaml(config: Any) -> str:
    """The resolved configuration, ready to be used as a recipe again."""
    return yaml.safe_dump(as_tree(config), sort_keys=False, allow_unicode=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name: old -> new` for every leaf that differs."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names]
