"""Volumes through the fine-tuning program: slices as frames, for every backbone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.errors import ConfigError, RunError
from endofm.models.vipttnet import ViPTTNet
from endofm.tasks.finetuning.finetuned import load_finetuned
from finetune.evaluate import Evaluate, evaluate
from finetune.plan import explain, gather_material
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled
from tests.volumes import write_nifti, write_series


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its first settings for the life of a process."""
    yield
    AcceleratorState._reset_state(True)


def write_ct(folder: Path, num_volumes=12, splits=("train", "train", "test"), name="") -> Path:
    """Every second volume has a tube through all slices, the others a ball; half are DICOM."""
    rng = np.random.default_rng(0)
    segments = []
    for number in range(num_volumes):
        units = rng.normal(-900, 20, (6, 32, 32)).astype(np.int16)
        top, left = rng.integers(2, 18, 2)
        slices = slice(None) if number % 2 else slice(2, 4)
        units[slices, top : top + 12, left : left + 12] = 50
        if number % 4 < 2:
            path = write_nifti(folder / f"{name}v{number}.nii.gz", units)
        else:
            path = write_series(folder / f"{name}s{number}", units)
        labels = {"lesion": "tube" if number % 2 else "ball"}
        split = splits[number // 2 % len(splits)]
        segments.append(Segment(folder, path.name, 0, 6, path.name, split, labels))
    write_manifest(folder / "manifest.csv", segments)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct"))


def small(manifest, out, name="vipttnet_mini", **changes):
    made = dict(label="lesion", name=name, patch_pixels=None, drop_path=None,
                pixels=64, frames=3, epochs=1, batch_size=4)  # fmt: skip
    return small_finetune(manifest, out, **made | PLAIN | changes)


def figures(out):
    return json.loads((out / "seed_0/metrics.json").read_text(encoding="utf-8"))["metrics"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vipttnet_mini", {}),
        ("rpa3d", {"pixels": 32}),
        ("timesformer_mini", {"pixels": 32, "method": "st_adapter"}),
    ],
)
def test_every_backbone_is_fine_tuned_on_volumes(name, options, manifest, tmp_path):
    turned = {"crop_area": (0.8, 1.0), "rotate_degrees": 20.0, "balance": "loss"}
    out = finetune(small(manifest, tmp_path / "run", name, **turned | options))
    kappa = figures(out)["kappa"]
    assert kappa["value"] is not None and kappa["low"] <= kappa["value"] <= kappa["high"]


@pytest.mark.slow
def test_eight_volumes_are_learned_by_heart(manifest, tmp_path):
    # Chosen by the same volumes under other names: two are soon told, and by chance.
    again = write_ct(tmp_path / "again", splits=("val", "val", "other"), name="a")
    config = small(manifest, tmp_path / "run", epochs=35, batch_size=4, lr_per_256=0.19)
    out = finetune(replace(config, data=replace(config.data, manifests=(manifest, again))))
    AcceleratorState._reset_state(True)
    assert evaluate(Evaluate(out, manifest, split="train", workers=0)).values["kappa"].value == 1


def test_a_network_trained_on_video_goes_on_to_volumes_with_its_batch_norms_kept(
    manifest, tmp_path
):
    videos = write_labelled(tmp_path / "video", 6, splits=("train",) * 2)
    first = finetune(small(videos, tmp_path / "first", label="polyp"))
    AcceleratorState._reset_state(True)
    source = str(first / "seed_0/model")
    with pytest.raises(ConfigError, match="--reset-head"):
        finetune(small(manifest, tmp_path / "refused", weights=source))
    out = finetune(
        small(manifest, tmp_path / "run", weights=source, reset_head=True, method="frozen_norm")
    )
    one, two = (load_finetuned(at / "seed_0/model").task.encoder for at in (first, out))
    assert isinstance(two, ViPTTNet)
    kept, other = one.state_dict(), two.state_dict()
    statistics = [name for name in kept if "running" in name]
    assert statistics and all(torch.equal(kept[name], other[name]) for name in statistics)
    thawed = next(n for n in kept if n.startswith("blocks.0") and kept[n].ndim == 4)
    assert not torch.equal(kept[thawed], other[thawed])


def test_what_makes_no_sense_for_the_network_is_refused(manifest, tmp_path):
    with pytest.raises(ConfigError, match="random ones have none worth keeping"):
        small(manifest, tmp_path / "run", method="frozen_norm")
    for changes, says in (
        ({"patch_pixels": 8}, "no setting 'patch_pixels'"),
        ({"drop_path": 0.1}, "no branches to drop"),
        ({"method": "lora"}, "plain video transformers"),
        ({"kind": "detection"}, "detection"),
    ):
        config = small(manifest, tmp_path / "run", **changes)
        with pytest.raises(ConfigError, match=says):
            explain(config, gather_material(small(manifest, tmp_path / "run")))


def test_a_plan_counts_the_memory_of_the_frame_cnn(manifest, tmp_path):
    told = explain(small(manifest, tmp_path / "run"), gather_material(small(manifest, tmp_path)))
    assert "random weights of vipttnet_mini" in told and "GiB a step" in told


def test_volumes_that_cannot_be_read_stop_a_run_beyond_their_share(tmp_path):
    manifest = write_ct(tmp_path / "ct")
    for name in ("v0.nii.gz", "v1.nii.gz"):
        path = tmp_path / "ct" / name
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(RunError, match="max_broken_share"):
        finetune(small(manifest, tmp_path / "run", epochs=3))
