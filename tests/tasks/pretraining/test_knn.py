import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from endofm.config import to_yaml
from endofm.data.manifests.manifest import read_manifest
from endofm.errors import ConfigError, VideoError
from endofm.report.curves import loss_curves, read_metrics
from endofm.tasks.pretraining.knn import MAX_CLIPS, check_list, group_accuracy
from pretrain.__main__ import read_command
from pretrain.train import train
from tests.small import small_recipe, write_corpus


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def labelled(manifest, out, label=lambda number: "ab"[number % 2]):
    """The same clips with a label each."""
    with manifest.open(newline="") as file:
        table = list(csv.DictReader(file))
    for number, row in enumerate(table):
        row["label_kind"] = label(number)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return out


def test_a_clip_is_not_told_by_its_own_group():
    groups = np.array(["1", "1", "2", "2", "3", "3", "4", "4"])
    labels = np.array(["a", "a", "b", "b", "a", "a", "b", "b"])
    by_label = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]] * 2) + 0.01 * np.eye(8)[:, :2]
    assert group_accuracy(by_label, labels, groups) == 1
    by_group = np.eye(4).repeat(2, axis=0)  # each clip's twin is in its own group
    assert group_accuracy(by_group, labels, groups) < 1


def test_a_run_with_knn_is_bit_for_bit_the_run_without(manifest, tmp_path):
    option = (labelled(manifest, manifest.with_name("labelled.csv")), "kind", 3)
    losses, states = [], []
    for name, knn in (("without", None), ("with", option)):
        train(small_recipe(manifest, tmp_path / name, knn=knn))
        AcceleratorState._reset_state(True)
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        losses.append([(row["step"], row["loss"]) for row in rows if "loss" in row])
        folder = tmp_path / name / "checkpoints" / "step-00000006"
        tensors = load_file(folder / "model.safetensors")
        moments = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
        states.append(
            tensors | {f"{n}.{k}": v for n, entry in moments.items() for k, v in entry.items()}
        )
    assert losses[0] == losses[1] and set(states[0]) == set(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    scored = {row["step"]: row["knn_accuracy"] for row in rows if "knn_accuracy" in row}
    assert set(scored) == {3, 6} and all(0 <= score <= 1 for score in scored.values())
    svg = loss_curves({"run": rows})
    assert (
        "k-NN accuracy" in svg
        and svg.count("not logged")
        == loss_curves({"run": [row for row in rows if "knn_accuracy" not in row]}).count(
            "not logged"
        )
        - 1
    )


def test_the_option_is_read_from_flags_and_recipes(tmp_path):
    recipe = read_command(["--run.knn", "list.csv", "polyp", "500"]).recipe
    assert recipe.run.knn[0].name == "list.csv" and recipe.run.knn[1:] == ("polyp", 500)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    assert read_command(["--config", str(file)]).recipe == recipe


@pytest.mark.parametrize(
    ("label", "every", "told"),
    [
        (lambda n: "a", 10, "1 values of label_kind"),
        (lambda n: "ab "[n % 3].strip(), 10, "2 clips without a label_kind"),
        (lambda n: "ab"[n % 2], 0, "0 steps"),
        (lambda n: "ab"[n == 3], 10, "2 values of label_kind, and 'b' in one group only"),
    ],
)
def test_lists_that_cannot_be_asked_are_refused(manifest, tmp_path, label, every, told):
    file = labelled(manifest, manifest.with_name("bad.csv"), label)
    with pytest.raises(ConfigError, match=told):
        train(small_recipe(manifest, tmp_path / "run", knn=(file, "kind", every)))


def test_the_lists_paths_start_from_the_datas_root(manifest, tmp_path):
    file = labelled(manifest, tmp_path / "labelled.csv")  # not where the clips are
    config = small_recipe(manifest, tmp_path / "run", knn=(file, "kind", 3))
    train(replace(config, data=replace(config.data, root=manifest.parent)))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "knn_accuracy" in row] == [3, 6]


def test_a_list_that_would_fill_the_memory_is_refused(manifest):
    row = replace(read_manifest(manifest)[0], labels={"kind": "a"})
    with pytest.raises(ConfigError, match=f"takes at most {MAX_CLIPS}"):
        check_list([row] * (MAX_CLIPS + 1), manifest, "kind", 1)


def test_a_clip_of_the_list_that_cannot_be_read_is_named_before_the_run(manifest, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    bad = labelled(write_corpus(folder, num_clips=4), folder / "list.csv")
    (folder / "clip_1.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="clip_1"):
        train(small_recipe(manifest, tmp_path / "run", knn=(bad, "kind", 2)))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
