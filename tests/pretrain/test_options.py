import dataclasses
import re
from pathlib import Path

import pytest

from endofm.config import as_tree, recipe_flags
from endofm.errors import ConfigError
from pretrain.__main__ import read_command
from pretrain.config import Command, PretrainConfig
from tests.options import num_options, option_names

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "pretrain" / "configs").glob("*.yaml"))


def test_there_are_at_most_fifty_options():
    assert 40 < num_options(Command, PretrainConfig) <= 50


def test_every_option_is_read_somewhere():
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("endofm", "pretrain")
        for path in (ROOT / folder).rglob("*.py")
    )
    for option in option_names(PretrainConfig):
        section, name = option.split(".")
        receiver = rf"(?:config|self|optim|views|data|self\.(?:config|data|views|optim)|{section})"
        assert re.search(rf"\b{receiver}\.{name}\b", code), f"{option} is read nowhere"


def test_every_option_has_its_sentence_in_the_help(capsys):
    with pytest.raises(SystemExit):
        read_command(["--help"])
    text = capsys.readouterr().out
    for option in option_names(PretrainConfig):
        assert f"--{option.replace('_', '-')}" in text, option
    for kind in (field.type for field in dataclasses.fields(PretrainConfig)):
        source = Path(__import__(kind.__module__, fromlist=["x"]).__file__).read_text("utf-8")
        for field in dataclasses.fields(kind):
            assert re.search(rf'    {field.name}: .*\n(?:.*\n){{0,2}}?    """[\w`]', source), (
                field.name
            )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_whole(recipe):
    command = read_command(["--config", str(recipe)])
    tree = as_tree(command.recipe)
    assert len(recipe_flags(recipe, Command)) > 10
    assert command.recipe != PretrainConfig() and set(tree) == {
        "data", "views", "model", "objective", "optim", "run",
    }  # fmt: skip


def test_the_four_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {"endofm_paper", "endofm_released", "vits16", "demo"}


def test_the_released_recipe_has_the_released_learning_rate_at_its_batch():
    recipe = read_command(["--config", str(ROOT / "pretrain/configs/endofm_released.yaml")]).recipe
    assert recipe.optim.lr_per_256 * 12 / 256 == pytest.approx(2.34e-5, rel=2e-3)
    assert recipe.views.shapes == [(8, 224), (16, 224)] + [
        (frames, 96) for frames in (2, 2, 4, 4, 8, 8, 16, 16)
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [("optim.epochs", "inf"), ("optim.epochs", "nan"), ("optim.lr-per-256", "nan"),
     ("views.crop-areas", "nan 0.4 1"), ("objective.koleo-weight", "nan"),
     ("model.drop-path", "nan"), ("optim.weight-decay", "0 inf")],
)  # fmt: skip
def test_a_number_that_is_none_is_refused_by_the_name_of_its_option(option, value):
    with pytest.raises(ConfigError, match=re.escape(option.replace("-", "_"))):
        read_command([f"--{option}", *value.split()])
