"""One typed object from defaults, a YAML recipe and flags, through one parser (tyro).

A recipe is turned into flags and read before the user's own, so that a misspelt key in a file and
on the command line get the same message.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeVar

import tyro
import yaml

from endofm.errors import ConfigError

Config = TypeVar("Config")


def parse_config(
    kind: type[Config],
    flags: Sequence[str],
    recipe: Path | None,
    prog: str,
    description: str,
    recipe_option: str = "--config",
) -> Config:
    """Read `kind` from its defaults, then `recipe`, then `flags`; the later wins.

    `recipe_option` is how a command line of `prog` names the recipe. A wrong key or value ends the
    program with tyro's message (exit status 2), as does `--help`. Raises `ConfigError` for a recipe
    that can't be read or is not YAML, and for a number that is not finite.
    """
    from_file = [] if recipe is None else recipe_flags(recipe, kind)
    if recipe is not None and not {"-h", "--help"} & set(flags):
        with_recipe = f"{prog} {recipe_option} {recipe}"  # with `--help` it must give help
        tyro.cli(kind, args=from_file, prog=with_recipe, description=description)
    config = tyro.cli(kind, args=[*from_file, *flags], prog=prog, description=description)
    _check_finite(config)
    return config


def recipe_flags(recipe: Path, kind: type) -> list[str]:
    """A YAML recipe as command-line flags of `kind`, which has defaults for everything.

    A key without a value leaves its option as it is, if that is nothing too (`None`, empty).
    """
    leaves = list(_leaves(_read_recipe(recipe)))
    names = [name.replace("_", "-") for name, _ in leaves]
    if twice := [name for name, _ in leaves if names.count(name.replace("_", "-")) > 1]:
        raise ConfigError(f"The recipe {recipe} gives {twice[0]} twice; delete one of them.")
    defaults = _by_section(kind())
    return [
        word
        for name, value in leaves
        if value is not None or not _is_nothing(recipe, name, defaults)
        for word in _flag(recipe, name, value)
    ]


def _read_recipe(recipe: Path) -> dict[Any, Any]:
    try:
        if not recipe.is_file():
            beside = recipe.parent.glob("*.yaml") if recipe.parent.is_dir() else ()
            near = ", ".join(sorted(path.name for path in beside))
            hint = f"there are: {near}." if near else "give the path of a YAML file."
            raise ConfigError(f"There is no recipe {recipe}; {hint}")
        with recipe.open(encoding="utf-8") as file:
            tree = yaml.load(file, _Loader)
    except OSError as error:
        raise ConfigError(
            f"The recipe {recipe} can't be read ({error.strerror}); correct its name or its "
            "permissions."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recipe {recipe} is not YAML ({reason}); mend it there.") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(
            f"The recipe {recipe} holds a {type(tree).__name__}, but must hold keys and values."
        )
    return tree or {}


class _Loader(yaml.SafeLoader):
    """Refuses a key that a table has twice, of which YAML's own loader drops the first."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        table = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in table.value:  # as written; what `<<` merges in may be overridden
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise ConfigError(
                    f"The recipe {self.name} has '{key.value}' a second time in line "
                    f"{key.start_mark.line + 1}; make one of the two."
                )
            seen.add(key.value)
        return table


def _by_section(config: Any) -> dict[str, Any]:
    """A configuration as its recipe has it: a command's sections stand at the top."""
    tree = as_tree(config)
    recipe: dict[str, Any] = tree.pop("recipe", {})
    return recipe | tree


def _is_nothing(recipe: Path, name: str, defaults: Mapping[str, Any]) -> bool:
    """Whether the default of an option is nothing, or the name is that of a section.

    `False` for what is no option: the parser knows those that are near. Raises `ConfigError` for an
    option that always has a value.
    """
    found: Any = defaults
    for part in name.replace("-", "_").split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    if isinstance(found, Mapping) or found in (None, "", []):
        return True
    raise ConfigError(
        f"The recipe {recipe} has {name} without a value; write one (the default is {found}) or "
        "delete the line."
    )


def _check_finite(config: Any) -> None:
    for name, value in _leaves(_by_section(config)):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{name} is {number}; give a finite number.")


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
        if any(item is None or isinstance(item, list | Mapping) for item in value):
            raise ConfigError(
                f"The recipe {recipe} nests lists under '{name}', or leaves an item empty; "
                "a list holds plain values only."
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
