import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.data.manifests.manifest import read_manifest
from endofm.errors import RunError, VideoError
from endofm.metrics.bootstrap import Bootstrap
from endofm.models.registry import create_model
from endofm.tasks.finetuning import frozen
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.evaluating import Reader
from endofm.tasks.finetuning.finetuned import build_task
from endofm.tasks.finetuning.frozen import FeatureCache, StoredFeatures, cache_key, probe
from tests.labelled import PLAIN, write_labelled

BACKBONE = dict(depth=1, patch_pixels=8, image_pixels=32, num_frames=2, width=24, num_heads=2)


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return read_manifest(write_labelled(tmp_path_factory.mktemp("corpus"), 8))


def task(seed=0, **data):
    torch.manual_seed(seed)
    config = LabelledConfig(label="polyp", **{**PLAIN, **data})
    clip_spec = ClipSpec("classification", ("normal", "polyp"), config, 2, 32)
    return build_task(create_model("timesformer_tiny", **BACKBONE), clip_spec, TaskConfig())


def test_features_are_those_of_the_test_views_and_are_kept(tmp_path, segments):
    made = task(test_views=(2, 1))
    cache = FeatureCache(tmp_path, Reader(Accelerator(cpu=True), 3, 0))
    found = cache.features(made, segments)
    assert set(found) == {s.name for s in segments}
    assert found[segments[0].name].shape == (2, 24)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    again = cache.features(made, segments)
    assert file.stat().st_mtime_ns == before
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_the_key_changes_with_weights_rows_and_what_is_shown(segments):
    keys = [
        cache_key(task(), segments),
        cache_key(task(seed=1), segments),
        cache_key(task(stride=2), segments),
        cache_key(task(test_views=(2, 1)), segments),
        cache_key(task(), segments[1:]),
    ]
    assert len(set(keys)) == 5 and keys[0] == cache_key(task(), segments)


def test_a_broken_row_is_remembered_as_such(tmp_path, segments):
    cache = FeatureCache(tmp_path / "cache", Reader(Accelerator(cpu=True), 3, 0))
    bad = write_labelled(tmp_path / "more", 2)
    for file in (tmp_path / "more" / "clip_01").iterdir():
        file.write_bytes(b"none")
    rows = read_manifest(bad)
    for found in (cache.features(task(), rows), cache.features(task(), rows)):
        assert set(found) == {rows[0].name}
        with pytest.raises(VideoError, match="clip_01"):
            found[rows[1].name]
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"half")
    with pytest.raises(RunError, match="delete it"):
        cache.features(task(), rows)


def test_a_full_disk_is_one_sentence_and_leaves_no_part(tmp_path, segments, monkeypatch):
    def full(tensors, file, **_):
        file.write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(frozen, "save_file", full)
    cache = FeatureCache(tmp_path, Reader(Accelerator(cpu=True), 3, 0))
    with pytest.raises(
        RunError,
        match=r"can't be written \(.*No space left.*make room, and",
    ):
        cache.features(task(), segments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["knn", "linear_probe"])
def test_probes_tell_separable_features_apart_and_average_views(segments, method):
    rng = np.random.default_rng(0)
    far = {"polyp": 3.0, "normal": -3.0}
    features = StoredFeatures(
        {
            s.name: torch.tensor(rng.normal(far[s.labels["polyp"]], 1.0, (2, 24))).float()
            for s in segments
        },
        {},
    )
    train, asked = segments[:6], segments[6:]
    evaluation = probe(method, task(), features, train, asked, seed=0)
    figures = task().score(evaluation.predictions, Bootstrap(resamples=0))
    assert figures.values["accuracy"].value == 1.0 and not evaluation.broken
    del features[asked[0].name]
    features.broken[asked[0].name] = "unreadable"
    lost = probe(method, task(), features, train, asked, seed=0)
    assert [item.name for item in lost.broken] == [asked[0].name] and len(lost.predictions) == 1


def test_too_few_rows_for_a_linear_probe_are_told(segments):
    features = StoredFeatures({s.name: torch.randn(1, 24) for s in segments}, {})
    with pytest.raises(RunError, match="can't be fitted"):
        probe("linear_probe", task(), features, segments[:2], segments[2:], seed=0)
