import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import endofm
from endofm.errors import RunError
from endofm.programs.demo import RECIPE, Demo, run_demo, run_side_by_side
from pretrain.__main__ import read_command


def test_the_demo_ends_with_scores_models_and_a_page(tmp_path):
    console = Console(file=(tmp_path / "said.txt").open("w"), width=100)
    demo = Demo(out=tmp_path / "demo", seeds=(0, 1), num_clips=64, epochs=1)
    page = run_demo(demo, console)
    HTMLParser().feed(page.read_text(encoding="utf-8"))
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    tuned = [row for row in scores if row["method"] == "fine-tuning"]
    assert [(row["features"], row["seed"]) for row in tuned] == [
        ("pretrained", 0),
        ("untrained", 0),
    ]
    assert len(scores) - 2 == 2 * 3 * 2 * 3  # seeds, features, labels, methods
    assert all(0 <= row["score"] <= 1 for row in scores)
    by_kind = {(r["seed"], r["features"]): r["score"] for r in scores if r["label"] == "scene"}
    assert by_kind[0, "color statistics"] == by_kind[1, "color statistics"]
    for seed in (0, 1):
        assert endofm.load(tmp_path / "demo" / f"seed_{seed}" / "model").config.depth == 2
    assert "pretrained" in page.read_text(encoding="utf-8")


def test_a_run_beside_others_that_fails_is_named_and_says_why(tmp_path, capfd):
    recipe = read_command(["--config", str(RECIPE)]).recipe
    recipe = replace(recipe, data=replace(recipe.data, manifests=(Path("no_such.csv"),)))
    runs = [
        replace(recipe, run=replace(recipe.run, out=tmp_path / f"seed_{seed}")) for seed in (0, 1)
    ]
    with pytest.raises(RunError, match=r"seed_0 ended with status 1"):
        run_side_by_side("pretrain", runs)
    assert "no_such.csv" in capfd.readouterr().err
