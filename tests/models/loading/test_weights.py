import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from endofm.errors import WeightsError
from endofm.heads.projection import ProjectionHead
from endofm.models.loading.weights import load_backbone_weights, read_checkpoint, read_tensors
from endofm.models.registry import create_model
from endofm.models.timesformer import TimeSformer
from tests.shared import shared_folder

PUBLISHED_SMALL = {"width": 48, "depth": 2, "num_heads": 4, "image_pixels": 48}


def small(seed=0, **overrides) -> TimeSformer:
    torch.manual_seed(seed)
    settings = {"width": 16, "depth": 1, "num_heads": 2, "image_pixels": 32, "num_frames": 4}
    return create_model("timesformer_tiny", **settings | overrides)


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Reading


def layouts(tensors):
    """One set of tensors as the field's checkpoints wrap it."""
    return {
        "flat": tensors,
        "svt": prefixed(tensors, "backbone."),
        "timesformer": {"model_state": prefixed(tensors, "model."), "epoch": 3},
        "parallel": {"state_dict": prefixed(tensors, "module.")},
        "compiled": {"model": prefixed(tensors, "module._orig_mod.")},
        "lightning": {"state_dict": {"model": prefixed(tensors, "model.backbone.")}},
        "dino": {"teacher": prefixed(tensors, "backbone."), "student": {}, "epoch": 3},
    }


@pytest.mark.parametrize("layout", layouts({}))
def test_every_layout_gives_the_plain_tensors(tmp_path, layout):
    tensors = small().state_dict()
    torch.save(layouts(tensors)[layout], tmp_path / "weights.pth")
    assert_same(read_tensors(tmp_path / "weights.pth"), tensors)


def test_safetensors_and_the_old_torch_format_give_the_same(tmp_path):
    tensors = small().state_dict()
    save_file(prefixed(tensors, "backbone."), tmp_path / "weights.safetensors")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(prefixed(tensors, "backbone."), tmp_path / "weights.pth", **old)
    assert_same(read_tensors(tmp_path / "weights.safetensors"), tensors)
    assert_same(read_tensors(str(tmp_path / "weights.pth")), tensors)


def test_student_or_teacher_is_chosen(tmp_path):
    student, teacher = small(1).state_dict(), small(2).state_dict()
    wrapped = {"student": prefixed(student, "module.backbone."), "teacher": teacher}
    torch.save(wrapped, tmp_path / "run.pth")
    assert_same(read_tensors(tmp_path / "run.pth"), teacher)
    assert_same(read_tensors(tmp_path / "run.pth", "student"), student)
    torch.save({"student": student}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"half\.pth has no teacher; it holds student"):
        read_tensors(tmp_path / "half.pth")


def test_polypdiag_weights_are_the_backbone_and_a_classifier_left_out(tmp_path):
    model = small()
    wrapped = {
        "backbone_state_dict": prefixed(model.state_dict(), "module."),
        "state_dict": {"module.linear.weight": torch.zeros(2, 16)},
        "epoch": 20,
    }
    torch.save(wrapped, tmp_path / "polypdiag.pth")
    report = load_backbone_weights(small(3), read_tensors(tmp_path / "polypdiag.pth"))
    assert report.left_out == {"linear.weight": "classifier"}


@pytest.mark.golden
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_run_as_published_is_read_and_fits_backbone_and_head(which):
    tensors = read_tensors(shared_folder("golden", "published_layout_small.pth"), which)
    model = create_model("timesformer_tiny", **PUBLISHED_SMALL)
    report = load_backbone_weights(model, tensors)
    assert_same(model.state_dict(), {name: tensors[name] for name in report.loaded})
    head = {name.removeprefix("head."): tensors[name] for name in report.left_out}
    ProjectionHead(48, 96, 64, 32).load_state_dict(head, strict=True)
    assert set(report.loaded) | set(report.left_out) == set(tensors)
    assert str(report).startswith(f"loaded {len(report.loaded)} tensors, left out head.")


@pytest.mark.golden
def test_student_and_teacher_as_published_differ():
    path = shared_folder("golden", "published_layout_small.pth")
    student, teacher = read_tensors(path, "student"), read_tensors(path, "teacher")
    assert not torch.equal(student["cls_token"], teacher["cls_token"])


def test_every_entry_of_a_file_is_accounted_for(tmp_path):
    model = small().state_dict()
    run = {
        "student": prefixed(model, "module.backbone."),
        "teacher": prefixed(model, "backbone."),
        "optimizer": {"state": {}},
        "queue": {"values": torch.ones(2)},
        "epoch": 7,
    }
    torch.save(run, tmp_path / "run.pth")
    checkpoint = read_checkpoint(tmp_path / "run.pth")
    assert checkpoint.wrapping == ("teacher",)
    assert checkpoint.names["cls_token"] == "teacher.backbone.cls_token"
    assert checkpoint.left_out == {
        "student": "the other network of the run; which='student' takes it",
        "optimizer": "the training's own state",
        "queue": "tensors of something else",
        "epoch": "the training's own state",
    }


def test_a_file_of_too_many_tensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("endofm.models.loading.weights.MAX_TENSORS", 5)
    torch.save(small().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth holds 27 tensors \(at most 5\)"):
        read_tensors(tmp_path / "weights.pth")


def test_argument_lists_and_numpy_numbers_are_plain_data_under_old_names_too(tmp_path):
    content = {
        "model": {"weight": torch.ones(2)},
        "args": argparse.Namespace(lr=1e-3, out=[1, "two"]),
        "lr": [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)],
    }
    torch.save(content, tmp_path / "today.pth")
    with (
        zipfile.ZipFile(tmp_path / "today.pth") as today,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as old,
    ):
        for entry in today.namelist():
            written = today.read(entry)
            assert not entry.endswith("data.pkl") or b"multiarray" in written
            old.writestr(entry, written.replace(b"numpy._core.multi", b"numpy.core.multi"))
    for name in ("today.pth", "old.pth"):
        assert_same(read_tensors(tmp_path / name), {"weight": torch.ones(2)})


# What is not weights


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_malicious_file_runs(tmp_path, zipped):
    path, effect = tmp_path / "weights.pth", tmp_path / "effect"
    content = {"model": {"weight": torch.ones(2)}, "args": Malicious(effect)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"weights\.pth holds code or objects \(\w+\.system\)"):
        read_tensors(path)
    assert not effect.exists()
    torch.load(path, weights_only=False)
    assert effect.exists()  # the file was a real one


def test_no_code_of_a_bare_pickle_runs(tmp_path):
    path, effect = tmp_path / "weights.pt", tmp_path / "effect"
    path.write_bytes(pickle.dumps(Malicious(effect), protocol=2))
    with pytest.raises(WeightsError, match=r"weights\.pt"):
        read_tensors(path)
    assert not effect.exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "network.pth")
    with pytest.raises(WeightsError, match=r"Linear\) .* save its state dict alone"):
        read_tensors(tmp_path / "network.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"", "is empty; download it again"),
        (b"hello, I am no weights", "can't be read as"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, says, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=says) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_file_cut_off_is_told(tmp_path, kind, keep):
    tensors = small().state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(WeightsError, match=r"can't be read .* cut off"):
        read_tensors(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {0: torch.ones(1)}, torch.ones(1)])
def test_a_layout_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="not a layout of weights known here"):
        read_tensors(tmp_path / "weights.pth")


def test_two_tensors_of_one_name_are_refused(tmp_path):
    tensors = {"norm.weight": torch.ones(1), "backbone.norm.weight": torch.zeros(1)}
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"has norm\.weight twice"):
        read_tensors(tmp_path / "weights.pth")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth is not a file"):
        read_tensors(tmp_path / "none.pth")


# Loading


def test_loading_is_exact_and_lists_the_head_as_left_out():
    source, model = small(1), small(2)
    tensors = source.state_dict() | {"head.mlp.0.weight": torch.ones(1)}
    report = load_backbone_weights(model, tensors)
    assert_same(model.state_dict(), source.state_dict())
    assert report.left_out == {"head.mlp.0.weight": "projection head of the pretraining"}
    assert report.loaded == {name: name for name in source.state_dict()}


@pytest.mark.parametrize(
    ("weights_of", "says"),
    [
        ({"image_pixels": 64}, r"pos_embed is \[1, 17, 16\] .* \[1, 5, 16\] .* image_pixels=64"),
        ({"num_frames": 32}, r"time_embed is \[1, 32, 16\] .* \[1, 4, 16\] .* num_frames=32"),
        ({"width": 32}, r"cls_token is \[1, 1, 32\] .* the weights' own configuration"),
        ({"depth": 2}, r"20 have no place in it \(blocks\.1\."),
        ({"attention": "joint_space_time"}, r"8 tensors are missing \(blocks\.0\.temporal_norm1"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(weights_of, says):
    model, before = small(1), small(1).state_dict()
    with pytest.raises(WeightsError, match=says):
        load_backbone_weights(model, small(2, **weights_of).state_dict())
    assert_same(model.state_dict(), before)


def test_names_without_an_explanation_are_refused():
    tensors = small().state_dict() | {"surprise": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"1 have no place in it \(surprise\)"):
        load_backbone_weights(small(), tensors)
