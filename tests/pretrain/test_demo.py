import json
from html.parser import HTMLParser

from accelerate.state import AcceleratorState
from rich.console import Console

import endofm
from pretrain.demo import Demo, run_demo


def test_the_demo_ends_with_scores_models_and_a_page(tmp_path):
    AcceleratorState._reset_state(True)
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
