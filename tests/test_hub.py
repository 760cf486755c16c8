import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import endofm
from endofm import files, hub
from endofm.cli import main
from endofm.errors import ConfigError, OutputError, WeightsError
from endofm.models.input import InputSpec
from endofm.models.released_segmentation import (
    ReleasedSegmentation,
    ReleasedSegmentationConfig,
    build_released_segmentation,
)

SPEC = InputSpec((0.4, 0.3, 0.2), (0.2, 0.2, 0.1), num_frames=4, pixels=32)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = endofm.create_model(
        "timesformer_tiny", depth=2, patch_pixels=8, image_pixels=32, gradient_checkpointing=True
    )
    torch.nn.init.normal_(model.blocks[1].temporal_fc.weight, std=0.1)
    hub.save(tmp_path / "model", model, SPEC, {"steps": 7, "corpus": "a.csv"})
    return tmp_path / "model"


def test_a_model_folder_gives_the_backbone_back(folder):
    model = endofm.load(folder)
    assert not model.training and model.input_spec == SPEC
    assert not model.config.gradient_checkpointing
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    clip = model.input_spec.normalize(frames)
    assert clip.shape == (2, 3, 4, 32, 32)
    assert model(clip).shape == (2, 192)
    assert model.tokens(clip).shape == (2, 1 + 4 * 16, 192)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_a_folder_holds_what_others_expect(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "reference.safetensors", "README.md",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1 and config["provenance"]["steps"] == 7
    card = (folder / "README.md").read_text()
    assert "endofm.load" in card and "| corpus | a.csv |" in card


def test_weights_changed_after_saving_are_noticed_by_the_reference(folder):
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.mlp.fc1.weight"] *= 1.1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="reference output"):
        endofm.load(folder)


def test_changed_input_statistics_are_noticed_by_the_reference(folder):
    config = json.loads((folder / "config.json").read_text())
    config["input"]["mean"] = [0.5, 0.5, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="reference output"):
        endofm.load(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format 2"),
        ({"format": "1"}, "format '1'.*fetch the folder again"),
        ({"format": 0}, "format 0"),
        ({"architecture": "resnet"}, "'resnet'"),
        ({"settings": {"width": 192, "depth": 2, "num_heads": 3, "wings": 2}}, "wings"),
        ({"input": {"mean": [0.5], "std": [1, 1, 1]}}, "three means"),
        ({"input": {"colour": 1}}, "colour"),
    ],
)
def test_a_configuration_that_is_newer_or_unknown_is_refused_by_name(folder, change, told):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=told):
        endofm.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "reference.safetensors"])
def test_a_missing_or_cut_off_file_is_named(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(WeightsError, match=name):
        endofm.load(folder)
    file.unlink()
    with pytest.raises(WeightsError, match=name):
        endofm.load(folder)


def test_saving_again_replaces_the_folder_and_leaves_nothing_half_written(folder):
    model = endofm.load(folder)
    hub.save(folder, model, SPEC, {"steps": 9})
    assert "| steps | 9 |" in (folder / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_is_on_the_disk_before_it_has_its_name(folder, monkeypatch):
    model, flushed = endofm.load(folder), []
    monkeypatch.setattr(files, "flush", lambda path: flushed.append(path.name))
    hub.save(folder, model, SPEC, {})
    names = {path.name for path in folder.iterdir()}
    assert set(flushed[:4]) == names and flushed[4:] == ["model.part", folder.parent.name]


def test_a_full_disk_while_saving_keeps_the_folder_that_is_there(folder, monkeypatch):
    model = endofm.load(folder)
    before = (folder / "README.md").read_text()

    def full(tensors, file, **_):
        file.write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(hub.folder, "save_file", full)
    with pytest.raises(OutputError, match=r"model can't be written .*No space left.*make room"):
        hub.save(folder, model, SPEC, {"steps": 9})
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert (folder / "README.md").read_text() == before and endofm.load(folder)


def test_frames_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="uint8 RGB"):
        SPEC.normalize(torch.zeros(4, 32, 32, 3))
    with pytest.raises(ConfigError, match="uint8 RGB"):
        SPEC.normalize(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))


def test_pixels_that_are_not_normalized_are_refused_and_normalized_ones_taken(folder):
    model = endofm.load(folder)
    frames = torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)
    for clip in (frames, frames.permute(0, 4, 1, 2, 3)):
        with pytest.raises(ConfigError, match=r"is uint8 .*model\.input_spec\.normalize"):
            model(clip)
    clip = model.input_spec.normalize(frames)
    assert model(clip).dtype == torch.float32
    assert model.half()(clip.half()).dtype == torch.float16


def test_a_folder_holds_the_released_segmentation_model_too(tmp_path, capsys):
    torch.manual_seed(0)
    small = ReleasedSegmentationConfig(
        num_classes=3, width=64, depth=1, num_heads=1, stem_depths=(1, 1, 1), image_pixels=64
    )
    model = build_released_segmentation(small).eval()
    hub.save(tmp_path / "model", model, model.input_spec, {"source": "cvc.pth"})
    loaded = endofm.load(tmp_path / "model")
    assert isinstance(loaded, ReleasedSegmentation) and loaded.input_spec == model.input_spec
    frames = torch.randint(0, 256, (1, 2, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores = loaded(loaded.input_spec.normalize(frames))
        assert torch.equal(scores, model(model.input_spec.normalize(frames)))
    assert scores.shape == (1, 2, 3, 32, 48)
    card = (tmp_path / "model/README.md").read_text()
    assert "3 classes" in card and "image-segmentation" in card
    main(["check", str(tmp_path / "model")])
    assert "segmentation network, 3 classes" in capsys.readouterr().out
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["head.bias"] += 1
    save_file(weights, tmp_path / "model/model.safetensors")
    with pytest.raises(WeightsError, match="reference output"):
        endofm.load(tmp_path / "model")
