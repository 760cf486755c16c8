from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from endofm.config import differences, parse_config, recipe_flags, to_yaml
from endofm.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    frames: tuple[int, ...] = (1, 2)
    is_fast: bool = False
    root: Path | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    steps: int = 1


def parse(flags, recipe=None):
    return parse_config(Outer, flags, recipe, "prog", "")


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path):
    recipe = write(tmp_path, "steps: 5\ninner: {frames: [3, 4, 5], is_fast: true, root: a b}\n")
    config = parse(["--inner.frames", "9"], recipe)
    assert config == Outer(Inner((9,), True, Path("a b")), 5)


def test_a_resolved_configuration_is_a_recipe_again(tmp_path):
    config = Outer(Inner((7,), True, None), 3)
    assert parse([], write(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize("by_file", [True, False])
def test_a_misspelt_key_gets_the_same_help_in_a_file_and_on_the_command_line(
    tmp_path, capsys, by_file
):
    recipe = write(tmp_path, "inner: {frmaes: [1]}\n") if by_file else None
    with pytest.raises(SystemExit) as stop:
        parse([] if by_file else ["--inner.frmaes", "1"], recipe)
    assert stop.value.code == 2
    told = "".join(capsys.readouterr())
    assert "--inner.frmaes" in told and "--inner.frames" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "not YAML"), ("- 1\n", "list"), ("inner: {frames: [[1]]}", "nests lists")],
)
def test_a_recipe_that_is_no_table_of_values_is_refused(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        recipe_flags(write(tmp_path, text))


def test_a_missing_recipe_names_those_beside_it(tmp_path):
    write(tmp_path, "steps: 1")
    with pytest.raises(ConfigError, match=r"there are: recipe\.yaml"):
        recipe_flags(tmp_path / "recipes.yaml")


def test_differences_name_every_leaf():
    old, new = yaml.safe_load("a: {b: 1, c: 2}\nd: 3"), yaml.safe_load("a: {b: 1, c: 5}\ne: 4")
    assert differences(old, new) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]
