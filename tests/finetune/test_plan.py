from collections import Counter
from dataclasses import replace

import pytest

from endofm.data.manifests.manifest import read_manifest, write_manifest
from endofm.data.pretraining.dataset import SampleOrder
from endofm.errors import ManifestError, RunError
from finetune.plan import gather_material, make_plan, remarks
from tests.labelled import small_finetune, write_labelled


@pytest.fixture
def manifest(tmp_path):
    """Eight of 24 clips show a polyp, two of three train."""
    manifest = write_labelled(tmp_path, 48, num_frames=1, splits=("train", "train"))
    rows = [row for n, row in enumerate(read_manifest(manifest)) if n % 2 or n % 12 == 0]
    write_manifest(manifest, rows)
    return manifest


def planned(manifest, world=1, **changes):
    config = small_finetune(manifest, manifest.parent / "out", **changes)
    one = config.only(config.data.label_share[0], config.run.seeds[0])
    return make_plan(one, gather_material(config), 0, world)


def test_balanced_sampling_shows_every_class_equally_often(manifest):
    counts = []
    for balance in ("none", "sampling"):
        plan = planned(manifest, balance=balance)
        order = SampleOrder(plan.corpus, 0)
        places = [order.at(position) for position in range(4 * order.epoch_length)]
        labels = [plan.corpus.parts[p.part][p.row].labels["polyp"] for p in places]
        counts.append(Counter(labels))
    assert counts[0]["normal"] > 3 * counts[0]["polyp"]
    assert counts[1]["normal"] == pytest.approx(counts[1]["polyp"], rel=0.15)


def test_epochs_become_steps_and_long_runs_validate_now_and_then(manifest):
    plan = planned(manifest, epochs=200, batch_size=2, accumulate=2, world=2)
    assert plan.global_batch == 8 and plan.steps == 200 * plan.schedule.steps_per_epoch
    told = [step for step in range(plan.steps) if plan.validates_after(step)]
    assert len(told) == 50 and told[-1] == plan.steps - 1


def test_a_share_smaller_than_a_step_still_makes_steps(manifest):
    plan = planned(manifest, label_share=(0.01,), batch_size=16, epochs=3)
    assert plan.steps == 3 and len(plan.splits.train) == 2
    assert plan.splits.test == planned(manifest).splits.test


def test_seeds_take_other_rows_but_keep_validation(manifest):
    one, two = (planned(manifest, label_share=(0.4,), seeds=(seed,)) for seed in (0, 1))
    assert one.splits.train != two.splits.train and one.splits.val == two.splits.val


def test_leaks_and_quarantine_beside_the_manifest_are_honoured(manifest):
    rows = read_manifest(manifest)
    train = next(row for row in rows if row.split == "train")
    test = next(row for row in rows if row.split == "test")
    beside = manifest.parent / "manifest.quarantine.csv"
    beside.write_text(f"clip,fault,reason\n{train.name},blank,It is blank.\n")
    material = gather_material(small_finetune(manifest, manifest.parent / "out"))
    assert train not in material.splits.all
    assert any("1 rows are quarantined" in remark for remark in remarks(material))
    beside.unlink()
    columns = "clip,against,manifest,kind,correlation,frames,against_frames,change,splits,accepted"
    leaks = manifest.parent / "manifest.leaks.csv"
    leaks.write_text(f"{columns}\n{train.name},{test.name},,near,0.99,0-0,0-0,,train/test,\n")
    config = small_finetune(manifest, manifest.parent / "out")
    with pytest.raises((RunError, ManifestError), match="leak"):
        gather_material(config)
    gather_material(replace(config, task=replace(config.task, protocol="legacy_polypdiag")))
