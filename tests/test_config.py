from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import pytest
import tyro
import yaml

from endofm.config import _Loader, as_tree, differences, parse_config, recipe_flags, to_yaml
from endofm.errors import ConfigError
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from tests.options import option_names


@dataclass(frozen=True)
class Inner:
    frames: tuple[int, ...] = (1, 2)
    is_fast: bool = False
    root: Path | None = None
    split: str = ""
    lists: tuple[Path, ...] = ()
    rate: float = 0.5
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    steps: int = 1


@dataclass(frozen=True)
class Command:
    recipe: Annotated[Outer, tyro.conf.arg(name="")] = Outer()
    config: Path | None = None


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
    [
        ("a: [", "not YAML"),
        ("- 1\n", "list"),
        ("inner: {frames: [[1]]}", "nests lists"),
        ("inner: {lists: [a, ]}\ninner: {lists: [b]}", r"recipe\.yaml has 'inner' .* in line 2;"),
        ("inner:\n  steps: 1\n  'steps': 2", "has 'steps' a second time in line 3;"),
        ("inner: {frames: [1, null]}", "leaves an item empty"),
        ("inner.split: a\ninner: {split: b}", r"gives inner\.split twice"),
        ("inner: {is-fast: true, is_fast: false}", r"gives inner\.is.fast twice"),
        ("steps:", r"has steps without a value; write one \(the default is 1\)"),
    ],
)
def test_a_recipe_that_is_no_table_of_values_is_refused(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        recipe_flags(write(tmp_path, text), Outer)


def test_anchors_are_merged_and_what_they_bring_may_be_overridden(tmp_path):
    recipe = write(tmp_path, "- &a {x: 1, y: 2}\n- {b: &b {<<: *a, x: 3}}\n- {<<: *b, y: 4}\n")
    loaded = yaml.load(recipe.read_text(), _Loader)
    assert loaded == yaml.safe_load(recipe.read_text()) and loaded[1] == {"b": {"x": 3, "y": 2}}


def test_a_key_without_a_value_leaves_the_option_as_it_is(tmp_path):
    text = "inner: {split: , lists: null, root: ~, rates: , frames: [3]}\n"
    assert parse([], write(tmp_path, text)) == Outer(Inner(frames=(3,)))
    assert parse([], write(tmp_path, "inner:\nsteps: 2\n")) == Outer(steps=2)
    command = parse_config(Command, [], write(tmp_path, "inner: {split: }\nconfig:\n"), "x", "")
    assert command == Command()


@pytest.mark.parametrize("kind", [PretrainConfig, FinetuneConfig])
def test_what_may_be_none_is_none_by_default(kind):
    """So that a recipe's null means both the default and none."""
    default = as_tree(kind())
    for name in option_names(kind):
        *section, option = name.split(".")
        holder = get_type_hints(kind)[section[0]] if section else kind
        if type(None) in get_args(get_type_hints(holder)[option]):
            assert (default[section[0]] if section else default)[option] is None, name


def test_a_misspelt_key_without_a_value_is_not_passed_over(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse([], write(tmp_path, "inner: {splti: }"))
    assert "--inner.splti" in "".join(capsys.readouterr())


def test_the_help_that_a_misspelt_recipe_points_to_is_there(tmp_path, capsys):
    recipe = write(tmp_path, "inner: {splti: a}")
    with pytest.raises(SystemExit):
        parse([], recipe)
    told = "".join("".join(capsys.readouterr()).replace("│", "").split())
    assert "".join(f"run prog --config {recipe} --help".split()) in told
    with pytest.raises(SystemExit) as stop:
        parse(["--config", str(recipe), "--help"], recipe)
    assert stop.value.code == 0 and "--inner.split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--inner.rate", "inf"], r"inner\.rate is inf; give a finite number"),
        (["--inner.rate", "nan"], r"inner\.rate is nan"),
        (["--inner.rates", "1", "-inf"], r"inner\.rates is -inf"),
    ],
)
def test_numbers_are_finite(flags, told):
    for kind in (Outer, Command):
        with pytest.raises(ConfigError, match="^" + told):
            parse_config(kind, flags, None, "prog", "")


def test_a_recipe_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"can't be read \(File name too long\); correct"):
        recipe_flags(tmp_path / ("x" * 300), Outer)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    recipe = write(tmp_path, "steps: 1")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"recipe\.yaml can't be read \(Permission denied\)"):
        recipe_flags(recipe, Outer)


def test_a_missing_recipe_names_those_beside_it(tmp_path):
    write(tmp_path, "steps: 1")
    with pytest.raises(ConfigError, match=r"there are: recipe\.yaml"):
        recipe_flags(tmp_path / "recipes.yaml", Outer)


def test_differences_name_every_leaf():
    old, new = yaml.safe_load("a: {b: 1, c: 2}\nd: 3"), yaml.safe_load("a: {b: 1, c: 5}\ne: 4")
    assert differences(old, new) == ["a.c: 2 -> 5", "d: 3 -> None", "e: None -> 4"]
