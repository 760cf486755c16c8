"""RPA 3D CNN through the fine-tuning program, and the protocol of balanced draws."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.errors import ConfigError, ManifestError, RunError
from endofm.metrics.bootstrap import Bootstrap
from endofm.models.rpa3d import RPA3D
from endofm.tasks.finetuning.finetuned import load_finetuned
from endofm.tasks.finetuning.starting import find_start, start_task
from endofm.tasks.finetuning.trainable import TuningConfig, parameter_groups
from finetune.compare import compare, figures_table
from finetune.evaluate import Evaluate, evaluate
from finetune.plan import explain, gather_material, make_clip_spec, make_plan
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its first settings for the life of a process."""
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Ten clips with a polyp, six without."""
    manifest = write_labelled(tmp_path_factory.mktemp("corpus"), 20)
    rows = [row for n, row in enumerate(read_manifest(manifest)) if n % 2 == 0 or n < 12]
    write_manifest(manifest, rows)
    return manifest


def small(manifest, out, **changes):
    made = dict(name="rpa3d", patch_pixels=None, drop_path=None, epochs=1)
    return small_finetune(manifest, out, **made | changes)


def read(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def samples(folder):
    return list(csv.DictReader((folder / "samples.csv").open(encoding="utf-8")))


def task_of(config):
    """What a run would train, with its data already looked at."""
    material = gather_material(config)
    start = find_start(config.weights, config.model, config.data.frames, config.data.pixels)
    clip_spec = make_clip_spec(config, material, start)
    return start_task(start, clip_spec, config.task, config.model, config.tuning)[0]


# The network

PIXELS = ("background", "polyp")


def test_a_cnn_is_trained_kept_loaded_judged_again_and_gone_on_from(manifest, tmp_path):
    out = finetune(small(manifest, tmp_path / "run"))
    assert read(out / "seed_0")["weights"] == {"source": "random weights of rpa3d"}
    task = load_finetuned(out / "seed_0/model").task
    assert isinstance(task.encoder, RPA3D) and task.encoder.input_spec.num_frames == 2
    AcceleratorState._reset_state(True)
    again = evaluate(Evaluate(out, manifest, out=tmp_path / "again", workers=0))
    told = read(out / "seed_0")["metrics"]
    assert again.values["accuracy"].value == told["accuracy"]["value"]
    assert samples(tmp_path / "again") == samples(out / "seed_0")
    AcceleratorState._reset_state(True)
    further = small(
        manifest, tmp_path / "further", weights=str(out / "seed_0/model"), method="head"
    )
    finetune(further)
    one, two = (
        load_finetuned(at / "seed_0/model").task.encoder for at in (out, tmp_path / "further")
    )
    kept = two.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in one.state_dict().items())


def test_frozen_features_of_a_cnn_are_kept_and_probed(manifest, tmp_path):
    out = finetune(small(manifest, tmp_path / "run", method="knn", head="mean"))
    assert read(out)["metrics"]["accuracy"]["mean"] is not None


def test_layers_of_a_cnn_are_its_stem_and_stages(manifest, tmp_path):
    config = small(manifest, tmp_path / "run", method="last_blocks", size=1, head="attentive")
    task = task_of(config)
    trained = {n.split(".")[2] for n, p in task.network.named_parameters()
               if p.requires_grad and n.startswith("backbone.")}  # fmt: skip
    assert trained == {"3"}
    whole = task_of(replace(config, tuning=TuningConfig()))
    groups = parameter_groups(whole.network, whole.encoder, 0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    stages = [scales[id(block.conv1[0].weight)] for block in whole.encoder.blocks]
    assert stages == [0.0625, 0.125, 0.25, 0.5]
    assert scales[id(whole.encoder.stem[0][0].weight)] == 0.03125
    assert scales[id(whole.network.head.linear.weight)] == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(method="lora"), "lora is for plain video transformers; the RPA3D is trained by full"),
        (dict(method="st_adapter"), "st_adapter is for plain video transformers"),
        (dict(method="last_blocks", size=5), "tuning.size is 5, but the network has 4"),
        (dict(drop_path=0.1), "model.drop_path is 0.1, but the RPA3D has no branches"),
        (dict(gradient_checkpointing=True), "checkpointing is for plain video transformers"),
        (dict(patch_pixels=8), "no setting 'patch_pixels'"),
        (dict(pixels=40), "divides a frame into squares of 16; give a multiple"),
        (dict(kind="segmentation", classes=PIXELS), "RPA3D can't be trained for segmentation"),
        (dict(kind="segmentation", classes=PIXELS, head="released"), "can't be trained for seg"),
        (dict(kind="detection", classes=("polyp",)), "RPA3D can't be trained for detection"),
        (dict(name="rpa3"), "did you mean rpa3d"),
    ],
)  # fmt: skip
def test_what_a_cnn_can_not_do_is_one_sentence_before_the_start(
    manifest, tmp_path, changes, sentence
):
    with pytest.raises(ConfigError, match=sentence):
        task_of(small(manifest, tmp_path / "run", **changes))


def test_explaining_a_cnn_and_its_draws_builds_it_and_trains_nothing(manifest, tmp_path):
    config = small(manifest, tmp_path / "run", protocol="balanced_draws", seeds=(3, 4))
    told = explain(config, gather_material(config))
    for words in ("Draws: 6 groups of each class", "1.04 M of 1.04 M", "normal 2, polyp 2",
                  "memory ", "on validation", "runs             2"):  # fmt: skip
        assert words in told, words
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_eight_clips_are_learned_by_heart(tmp_path):
    manifest = write_labelled(tmp_path / "corpus", 12, num_frames=2, splits=("train", "train"))
    config = small(
        manifest, tmp_path / "run", epochs=20, batch_size=4, lr_per_256=0.15, weight_decay=0.0,
        val_share=0.01, **PLAIN,
    )  # fmt: skip
    out = finetune(config)
    AcceleratorState._reset_state(True)
    figures = evaluate(Evaluate(out, manifest, split="train", workers=0))
    assert figures.values["accuracy"].value == 1


# The protocol


def drawn(manifest, tmp_path, **changes):
    made = dict(protocol="balanced_draws", positive="polyp", name="rpa3d_no_attention", epochs=1)
    return small(manifest, tmp_path, **made | changes)


def test_every_seed_trains_and_tests_on_its_own_draw_and_the_summary_is_over_draws(
    manifest, tmp_path
):
    out = finetune(drawn(manifest, tmp_path / "run", seeds=(0, 1)))
    summary = read(out)
    assert summary["protocol"] == "balanced_draws" and summary["seeds"] == [0, 1]
    for name in ("accuracy", "precision", "recall", "f1", "auc"):
        assert set(summary["metrics"][name]["values"]) == {"0", "1"}
    tests = []
    for seed in (0, 1):
        folder = out / f"seed_{seed}"
        counted = {name: part["groups"] for name, part in read(folder)["rows"].items()}
        assert counted == {"train": 4, "val": 4, "test": 4}  # of 6 pairs a third is held out, twice
        tests.append({row["group"] for row in samples(folder)})
        assert sorted(row["truth"] for row in samples(folder)) == ["normal"] * 2 + ["polyp"] * 2
        draw = read_manifest(folder / "draw.csv", manifest.parent)
        assert {row.group for row in draw if row.split == "test"} == tests[-1]
        assert len({row.group for row in draw}) == len(draw) == 12
    assert tests[0] != tests[1]
    AcceleratorState._reset_state(True)
    again = evaluate(
        Evaluate(out / "seed_1", out / "seed_1/draw.csv", root=manifest.parent, workers=0)
    )
    told = read(out / "seed_1")["metrics"]["accuracy"]["value"]
    assert again.values["accuracy"].value == told


def test_results_of_the_same_draws_are_compared_draw_by_draw(manifest, tmp_path):
    seeds = (0, 1)
    for name in ("one", "two"):
        network = "rpa3d_no_attention" if name == "one" else "rpa3d_full3d"
        finetune(drawn(manifest, tmp_path / name, seeds=seeds, method="knn", name=network))
        AcceleratorState._reset_state(True)
    folders = [tmp_path / "one", tmp_path / "two"]
    comparison = compare(folders, ("accuracy",), Bootstrap(resamples=50))
    (differences,) = comparison.differences
    means = [read(folder)["metrics"]["accuracy"]["mean"] for folder in folders]
    assert differences["accuracy"].value == pytest.approx(means[1] - means[0])
    union = {row["group"] for s in seeds for row in samples(tmp_path / "one" / f"seed_{s}")}
    assert differences["accuracy"].num_groups == len(union) > 4
    assert "tests overlap" in figures_table(comparison).note
    finetune(small(manifest, tmp_path / "fixed", method="knn", seeds=seeds))
    with pytest.raises(RunError, match="same samples"):
        compare([tmp_path / "one", tmp_path / "fixed"])


def test_draws_are_made_of_all_rows_and_do_not_touch_the_rows_of_a_share(manifest, tmp_path):
    config = drawn(manifest, tmp_path / "run", seeds=(5,), label_share=(0.5,))
    material = gather_material(config)
    assert len(material.splits.train) == 16 and not material.splits.test
    plan = make_plan(config, material, 0, 1)
    whole = make_plan(
        replace(config, data=replace(config.data, label_share=(1.0,))), material, 0, 1
    )
    assert len(plan.splits.train) == 2
    assert {row.name for row in plan.splits.train} < {row.name for row in whole.splits.train}
    assert plan.splits.test == whole.splits.test


def test_what_can_not_be_drawn_is_told_before_the_start(manifest, tmp_path):
    with pytest.raises(ConfigError, match="balanced_draws is for classification"):
        drawn(manifest, tmp_path / "run", kind="multi_label", positive="")
    rows = read_manifest(manifest)
    few = [row for n, row in enumerate(rows) if row.labels["polyp"] == "polyp" or n < 4]
    write_manifest(manifest.parent / "few.csv", few)
    with pytest.raises(ManifestError, match=r"'normal' has 2 groups"):
        finetune(drawn(manifest.parent / "few.csv", tmp_path / "run"))
    gone = replace(rows[0], path="gone")
    write_manifest(manifest.parent / "gone.csv", [gone, *rows[1:]])
    with pytest.raises(RunError, match="1 of 16 rows can't be judged"):
        finetune(drawn(manifest.parent / "gone.csv", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_listed_leak_from_split_to_split_is_refused_for_draws_too(manifest, tmp_path):
    rows = read_manifest(manifest)
    train, test = (next(row for row in rows if row.split == name) for name in ("train", "test"))
    columns = "clip,against,manifest,kind,correlation,frames,against_frames,change,splits,accepted"
    leaks = manifest.parent / "manifest.leaks.csv"
    leaks.write_text(f"{columns}\n{train.name},{test.name},,near,0.99,0-0,0-0,,train/test,\n")
    try:
        with pytest.raises(RunError, match="leak"):
            gather_material(drawn(manifest, tmp_path / "run"))
    finally:
        leaks.unlink()
