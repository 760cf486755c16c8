import dataclasses
import re
from pathlib import Path

import pytest

from endofm.config import as_tree, recipe_flags, to_yaml
from endofm.data.labelled.samples import CLASSIFICATION
from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.errors import ConfigError
from finetune.__main__ import read_command
from finetune.config import Command, FinetuneConfig
from finetune.plan import gather_material, make_plan
from tests.labelled import small_finetune, write_labelled
from tests.options import num_options, option_names

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "finetune" / "configs").glob("*.yaml"))


def test_there_are_at_most_fifty_options():
    assert 40 < num_options(Command, FinetuneConfig) <= 50


def test_every_option_is_read_somewhere():
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("endofm", "finetune")
        for path in (ROOT / folder).rglob("*.py")
    )
    for option in option_names(FinetuneConfig):
        name = option.split(".")[-1]
        assert re.search(rf"\w\.{name}\b", code), f"{option} is read nowhere"


def test_every_option_has_its_sentence_in_the_help(capsys):
    with pytest.raises(SystemExit):
        read_command(["--help"])
    text = capsys.readouterr().out
    for option in option_names(FinetuneConfig):
        assert f"--{option.replace('_', '-')}" in text, option


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """One small corpus that has every label the recipes name."""
    folder = tmp_path_factory.mktemp("corpus")
    manifest = write_labelled(folder, 16)
    rows = []
    for row in read_manifest(manifest):
        names = ("polyp", "finding", "view", "phase", "scene", "organ", "motion")
        names += ("action", "tb_type", "lesion")
        labels = dict.fromkeys(names, row.labels["polyp"])
        rows.append(dataclasses.replace(row, labels=labels))
        assert isinstance(rows[-1], Segment)
    write_manifest(manifest, rows)
    return manifest


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_whole_and_makes_a_plan(recipe, corpus):
    flags = ["--config", str(recipe), "--weights", "none", "--data.manifests", str(corpus)]
    if "every_frames" in recipe.read_text(encoding="utf-8"):
        flags += ["--data.every-frames", "1"]
    config = read_command(flags).recipe
    draws = recipe.stem.startswith("rpa3d")
    assert config.task.protocol == ("balanced_draws" if draws else "honest")
    assert len(recipe_flags(recipe, Command)) > 10
    material = gather_material(config)
    plan = make_plan(config.only(1.0, config.run.seeds[0]), material, rank=0, world=1)
    assert plan.steps > 0 and plan.splits.val and len(material.classes) > 0
    is_first_stage = recipe.stem.startswith("vipttnet_video")
    assert len(config.run.seeds) >= 3 or recipe.stem == "demo_scene" or is_first_stage
    assert config.run.out == Path("runs") / recipe.stem
    assert (config.task.kind in CLASSIFICATION) == bool(config.data.label)


def test_the_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {
        "classification_polypdiag", "segmentation_cvc12k", "detection_kumc",
        "segmentation_kvasirseg", "classification_hyperkvasir", "classification_ev9v",
        "phases_cholec80", "classification_own", "demo_classification", "demo_segmentation",
        "demo_detection",
    }  # fmt: skip


def test_released_recipes_have_the_released_learning_rates():
    recipe = read_command(
        ["--config", str(ROOT / "finetune/configs/classification_polypdiag.yaml")]
    )
    optim = recipe.recipe.optim
    assert (optim.kind, optim.lr_per_256, optim.batch_size) == ("sgd", 1e-3, 4)
    cvc = read_command(["--config", str(ROOT / "finetune/configs/segmentation_cvc12k.yaml")])
    assert cvc.recipe.optim.lr_per_256 * cvc.recipe.optim.batch_size / 256 == pytest.approx(1e-4)


def test_the_resolved_recipe_is_a_recipe_again(tmp_path):
    config = small_finetune(tmp_path / "m.csv", tmp_path / "out", kind="detection", frames=3)
    file = tmp_path / "again.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert as_tree(read_command(["--config", str(file)]).recipe) == as_tree(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(kind="segmentation", test_views=(2, 1)), "judges every frame"),
        (dict(kind="segmentation", method="knn"), "is for classification, not segmentation"),
        (dict(kind="segmentation", head="attentive"), "is for classification"),
        (dict(kind="detection", balance="loss"), "counts rows"),
        (dict(kind="multi_label", balance="sampling"), "needs one label a row"),
        (dict(balance="loss", class_weights=(1.0, 2.0)), "leave one of them out"),
        (dict(method="linear_probe", head="attentive"), "sees pooled features"),
        (dict(protocol="legacy_cvc12k"), "is for segmentation"),
        (dict(label_share=(0.0,)), "give shares above 0"),
        (dict(crop_area=(0.9, 0.2)), "two rising shares"),
        (dict(every_frames=5, test_views=(2, 1)), "the one clip around it"),
        (dict(seeds=(1, 1)), "give different numbers"),
        (dict(patience_seconds=0), "run.patience_seconds is 0; give more than 0"),
        (dict(epochs=0), "give a finite number above 0"),
        (dict(layer_decay=0.0), "above 0 and at most 1"),
        (dict(classes=("a", "a")), "names one twice"),
    ],
)
def test_what_can_not_be_meant_is_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small_finetune(tmp_path / "m.csv", tmp_path / "out", **changes)
