import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import endofm
from endofm import hub
from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.errors import ConfigError, OutputError, WeightsError
from endofm.models.registry import create_model
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.finetuned import Adapters, build_task, load_finetuned, save_finetuned
from endofm.tasks.finetuning.starting import ModelOptions, find_start, start_task
from endofm.tasks.finetuning.trainable import TuningConfig, prepare_encoder

BACKBONE = dict(depth=1, patch_pixels=8, image_pixels=32, num_frames=2, width=24, num_heads=2)
CLASSES = {
    "classification": ("a", "b"),
    "multi_label": ("a", "b", "c"),
    "segmentation": ("background", "polyp"),
    "detection": ("polyp",),
    "video_detection": ("polyp",),
}


def made(kind="classification", method="full", **config):
    torch.manual_seed(0)
    options = TaskConfig(kind=kind, **config)
    data = LabelledConfig(label="x", test_views=(2, 1) if kind == "classification" else (1, 1))
    task = build_task(
        create_model("timesformer_tiny", **BACKBONE),
        ClipSpec(kind, CLASSES[kind], data, 2, 32),
        options,
    )
    tuning = TuningConfig(method=method, size=4)
    prepare_encoder(task.encoder, tuning)
    for parameter in task.network.parameters():  # adapters start at zero
        parameter.data += 0.01 * torch.randn_like(parameter)
    return task, options, Adapters(method, 4) if method != "full" else Adapters()


def saved(folder, *args, **kwargs):
    task, options, adapters = made(*args, **kwargs)
    save_finetuned(folder, task, options, adapters, {"seed": 0})
    return task


@pytest.mark.parametrize(
    ("kind", "method", "head"),
    [
        ("classification", "full", "attentive"),
        ("classification", "lora", "default"),
        ("multi_label", "st_adapter", "mean"),
        ("segmentation", "full", "default"),
        ("segmentation", "lora", "default"),
        ("detection", "full", "default"),
        ("video_detection", "full", "default"),
    ],
)
def test_a_saved_model_comes_back_exactly(tmp_path, kind, method, head):
    task = saved(tmp_path / "model", kind, method, head=head)
    found = load_finetuned(tmp_path / "model")
    clip = torch.randn(1, 3, 2, 32, 32)
    task.network.eval()
    with torch.no_grad():
        assert torch.equal(found.task.output(clip), task.output(clip))
    assert found.task.classes == CLASSES[kind] and found.config.kind == kind
    assert found.task.clip_spec.data.test_views == task.clip_spec.data.test_views
    assert not list((tmp_path / "model").glob("*.pkl"))


def test_a_folder_with_other_weights_or_none_is_refused(tmp_path):
    folder = tmp_path / "model"
    saved(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t + 0.1 for n, t in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="reference output"):
        load_finetuned(folder)
    tensors.pop("head.linear.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="describe no model we know"):
        load_finetuned(folder)
    with pytest.raises(WeightsError, match="is no fine-tuned model"):
        load_finetuned(tmp_path)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(WeightsError, match="format 99"):
        load_finetuned(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "reference.safetensors", "README.md"])
def test_a_full_disk_is_one_sentence_and_the_older_model_stays(tmp_path, monkeypatch, file):
    folder = tmp_path / "model"
    saved(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    really_save, really_write = hub.folder.save_file, Path.write_text

    def save(tensors, path, **kwargs):
        if path.name == file:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: No space left on device (os error 28)")
        really_save(tensors, path, **kwargs)

    def write(path, *args, **kwargs):
        if path.name == file:
            raise OSError(28, "No space left on device")
        return really_write(path, *args, **kwargs)

    monkeypatch.setattr(hub.folder, "save_file", save)
    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(OutputError, match=r"model can't be written \(.*No space left.*make room"):
        saved(folder, "classification", "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_endofm_load_says_what_such_a_folder_is(tmp_path):
    saved(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"fine-tuned model .* not a backbone"):
        endofm.load(tmp_path / "model")


def starting(folder, classes, reset=False, kind="classification", tuning=None):
    start = find_start(str(folder), ModelOptions())
    clip_spec = ClipSpec(kind, classes, LabelledConfig(label="x"), start.frames, start.pixels)
    return start_task(
        start, clip_spec, TaskConfig(kind=kind), ModelOptions(), tuning or TuningConfig(), (), reset
    )[0]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_head_for_the_same_classes_is_kept_and_another_is_refused_or_started_anew(
    tmp_path, method
):
    folder = tmp_path / "model"
    task = saved(folder, "classification", method).network.eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    kept = starting(folder, ("a", "b")).network.eval()
    torch.testing.assert_close(kept.logits(clip), task.logits(clip), rtol=1e-4, atol=1e-5)
    for classes, kind in ((("a", "b", "c"), "classification"), (("x", "y"), "segmentation")):
        with pytest.raises(ConfigError, match="--reset-head starts it anew"):
            starting(folder, classes, kind=kind)
    anew = starting(folder, ("a", "b", "c"), reset=True).network.eval()
    assert anew.logits(clip).shape == (1, 3)
    torch.testing.assert_close(anew.features(clip), task.features(clip), rtol=1e-4, atol=1e-4)
    starting(folder, ("a", "b"), tuning=TuningConfig(method="lora", size=2))


def test_weights_are_named_or_none():
    with pytest.raises(ConfigError, match="There are no weights"):
        find_start("", ModelOptions())
    start = find_start("none", ModelOptions("timesformer_tiny"), 4, 32)
    assert (start.frames, start.pixels) == (4, 32)
    assert start.provenance == {"source": "random weights of timesformer_tiny"}


def test_weights_tell_their_hash_whatever_they_lie_in(tmp_path):
    encoder = create_model("timesformer_tiny", **BACKBONE)
    hub.save(tmp_path / "model", encoder, encoder.input_spec, {})
    start = find_start(str(tmp_path / "model"), ModelOptions())
    digest = hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert start.provenance["sha256"] == digest and digest in start.told
    assert (start.frames, start.pixels) == (2, 32)
