import hashlib
import json
import os
import re

import pytest
import torch
from safetensors.torch import save_file

import endofm
from endofm.cli import main
from endofm.errors import WeightsError
from endofm.models.released_segmentation import ReleasedSegmentation
from tests.models.published import (
    hugging_face_of,
    polypdiag_of,
    prefixed,
    run_of,
    timesformer_of,
    video_model,
    with_head,
)
from tests.shared import shared_folder


@pytest.fixture
def run_file(tmp_path):
    torch.save(run_of(video_model(1), video_model(2)), tmp_path / "endo_fm.pth")
    return tmp_path / "endo_fm.pth"


def clip():
    return torch.randn(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(3))


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def doctor(capsys, *words):
    """What the doctor prints, and its exit status."""
    try:
        main(["doctor", *[str(word) for word in words]])
        status = 0
    except SystemExit as error:
        status = error.code
    return capsys.readouterr().out, status


# Loading


def test_a_file_loads_in_one_line_with_teacher_by_default(run_file):
    assert torch.equal(endofm.load(run_file)(clip()), video_model(2)(clip()))
    assert torch.equal(endofm.load(str(run_file), "student")(clip()), video_model(1)(clip()))


def test_what_a_file_does_not_tell_can_be_given(run_file):
    model = endofm.load(run_file, num_heads=2, layer_norm_eps=1e-5, mean=(0.3,) * 3, std=(0.2,) * 3)
    assert model.config.num_heads == 2 and model.config.layer_norm_eps == 1e-5
    assert model.input_spec.mean == (0.3,) * 3 and model.input_spec.std == (0.2,) * 3
    with pytest.raises(WeightsError, match="three positive deviations"):
        endofm.load(run_file, std=(0.0,) * 3)
    with pytest.raises(WeightsError, match="width 64 can't be shared by 7 heads"):
        endofm.load(run_file, num_heads=7)


def test_a_name_on_the_hub_is_fetched_with_its_revision(run_file, tmp_path, monkeypatch):
    asked = []
    main(["convert", str(run_file), str(tmp_path / "cache")])

    def fetch(name, revision):
        asked.append((name, revision))
        return tmp_path / "cache"

    monkeypatch.setattr("endofm.hub.loading.fetch", fetch)
    model = endofm.load("owner/name", revision="v2")
    assert asked == [("owner/name", "v2")]
    assert torch.equal(model(clip()), video_model(2)(clip()))


@pytest.mark.parametrize(
    "source", ["nowhere", "./nowhere", "some/where/else", "folder/missing.pth", "owner/"]
)
def test_what_is_nothing_is_told_without_asking_the_hub(source, monkeypatch):
    monkeypatch.setattr("endofm.hub.loading.fetch", None)
    with pytest.raises(WeightsError, match="is not a model folder, a weight file, `timm:NAME`"):
        endofm.load(source)


def test_options_that_would_be_ignored_are_refused(run_file, tmp_path):
    main(["convert", str(run_file), str(tmp_path / "model")])
    with pytest.raises(WeightsError, match="tells its heads, eps and normalization itself"):
        endofm.load(tmp_path / "model", num_heads=2)
    with pytest.raises(WeightsError, match="has no revisions"):
        endofm.load(run_file, revision="main")


def test_another_librarys_folder_asks_for_its_weight_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timesformer"}))
    with pytest.raises(
        WeightsError, match=r"another library's model .* give the weight file in it"
    ):
        endofm.load(tmp_path)


@pytest.mark.golden
def test_the_segmentation_file_gives_the_segmentation_model(tmp_path, capsys):
    path = released_segmentation_file(tmp_path)
    model = endofm.load(path)
    assert isinstance(model, ReleasedSegmentation)
    said, status = doctor(capsys, path)
    assert status == 0 and "Endo-FM's CVC segmentation model" in said
    main(["convert", str(path), str(tmp_path / "model")])
    converted = endofm.load(tmp_path / "model").state_dict()
    assert all(torch.equal(converted[name], own) for name, own in model.state_dict().items())
    assert doctor(capsys, tmp_path / "model")[1] == 0


def released_segmentation_file(folder):
    file = shared_folder("golden", "published_segmentation_keys.json")
    shapes = json.loads(file.read_text(encoding="utf-8"))
    later = r"encoder\.layer\.[1-9]|unit[2-9]"  # one block and one unit a stage are enough here
    shapes = {name: shape for name, shape in shapes.items() if not re.search(later, name)}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.zeros(shape, dtype=torch.long)
        if name.endswith("num_batches_tracked")
        else 0.02 * torch.randn(shape, generator=generator).abs()
        for name, shape in shapes.items()
    }
    torch.save(tensors, folder / "cvc.pth")
    return folder / "cvc.pth"


# Converting

SOURCES = {
    "endo_fm.pth": lambda m: run_of(video_model(1), m),
    "svt.pth": lambda m: with_head(m.state_dict()),
    "TimeSformer.pyth": timesformer_of,
    "polypdiag.pth": polypdiag_of,
    "hf.safetensors": hugging_face_of,
    "ddp.bin": lambda m: {"state_dict": prefixed(m.state_dict(), "module.")},
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_converted_file_gives_the_same_features(tmp_path, name, capsys):
    content = SOURCES[name](video_model(2))
    (save_file if name.endswith(".safetensors") else torch.save)(content, tmp_path / name)
    main(["convert", str(tmp_path / name), str(tmp_path / "model")])
    converted, direct = endofm.load(tmp_path / "model"), endofm.load(tmp_path / name)
    assert torch.equal(converted(clip()), direct(clip()))
    assert torch.equal(converted(clip()), video_model(2)(clip()))
    assert converted.input_spec == direct.input_spec and converted.config == direct.config
    assert f"{tmp_path / 'model'} is written" in capsys.readouterr().out


def test_a_converted_folder_says_where_it_is_from(run_file, tmp_path, capsys):
    main(["convert", str(run_file), str(tmp_path / "model"), "--which", "student"])
    assert "left out: projection head of the pretraining" in capsys.readouterr().out
    provenance = json.loads((tmp_path / "model/config.json").read_text())["provenance"]
    assert provenance["source"] == "endo_fm.pth" and provenance["network"] == "student"
    assert provenance["sha256"] == hashlib.sha256(run_file.read_bytes()).hexdigest()
    assert "Endo-FM's layout" in provenance["kind"]
    assert "projection head of the pretraining" in provenance["left out"]


def test_converting_never_overwrites_what_is_no_model_folder(run_file, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("mine")
    for place in (tmp_path / "thesis", run_file):
        assert "is no model folder; choose another" in refusal(capsys, "convert", run_file, place)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    main(["convert", str(run_file), str(tmp_path / "empty")])
    main(["convert", str(run_file), str(tmp_path / "empty")])  # and a model folder, again


# The doctor


def test_the_doctor_tells_what_a_file_is_and_wants(run_file, capsys):
    said, status = doctor(capsys, run_file)
    assert status == 0
    assert "Endo-FM's layout: a run's student and teacher" in said
    assert "width 64, depth 2, 1 heads, patches of 16 px" in said
    assert "8 frames of 48 x 48 px, mean [0.485, 0.456, 0.406]" in said
    assert "projection head of the pretraining" in said and "optimizer" in said
    assert said.endswith("verdict       loads, and looks trained\n")
    whole, _ = doctor(capsys, run_file, "--all")
    assert "  teacher.backbone.blocks.1.norm2.bias -> blocks.1.norm2.bias" in whole
    assert len(whole.splitlines()) > len(said.splitlines()) + 40


def test_the_doctors_exit_status_is_for_scripts(run_file, tmp_path, capsys):
    new = endofm.create_model("timesformer_tiny", depth=1, image_pixels=32)
    torch.save(new.state_dict(), tmp_path / "new.pth")
    said, status = doctor(capsys, tmp_path / "new.pth")
    assert status == 2 and "never trained" in said and "see the warnings" in said
    content = torch.load(run_file)
    del content["teacher"]["backbone.norm.bias"]
    torch.save(content, run_file)
    said, status = doctor(capsys, run_file)
    assert status == 1 and "missing       norm.bias" in said and "does not load" in said
    (tmp_path / "page.pth").write_text("<html>")
    assert "is a web page" in refusal(capsys, "doctor", tmp_path / "page.pth")


def test_the_doctor_looks_at_model_folders_too(run_file, tmp_path, capsys):
    main(["convert", str(run_file), str(tmp_path / "model")])
    capsys.readouterr()
    said, status = doctor(capsys, tmp_path / "model")
    assert status == 0 and "a model folder of endofm" in said
    (tmp_path / "model/model.safetensors").unlink()
    assert "model.safetensors is not a file" in refusal(capsys, "doctor", tmp_path / "model")


# Safety


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, effect):
        self.effect = effect

    def __reduce__(self):
        return os.system, (f"touch '{self.effect}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_malicious_file_runs_on_any_way_in(tmp_path, capsys, zipped):
    path, effect = tmp_path / "weights.pth", tmp_path / "effect"
    content = run_of(video_model(1), video_model(2)) | {"args": Malicious(effect)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="holds code or objects"):
        endofm.load(path)
    assert "holds code or objects" in refusal(capsys, "doctor", path)
    assert "holds code or objects" in refusal(capsys, "convert", path, tmp_path / "model")
    assert not effect.exists() and not (tmp_path / "model").exists()
    torch.load(path, weights_only=False)
    assert effect.exists()  # the file was a real one


def test_a_malicious_file_in_a_model_folder_does_not_run_either(run_file, tmp_path):
    main(["convert", str(run_file), str(tmp_path / "model")])
    effect = tmp_path / "effect"
    torch.save({"args": Malicious(effect)}, tmp_path / "model/model.safetensors")
    with pytest.raises(WeightsError, match="holds code or objects"):
        endofm.load(tmp_path / "model")
    assert not effect.exists()


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_file_cut_off_is_one_sentence_on_any_way_in(run_file, tmp_path, capsys, keep):
    run_file.write_bytes(run_file.read_bytes()[: int(run_file.stat().st_size * keep)])
    with pytest.raises(WeightsError, match="cut off"):
        endofm.load(run_file)
    assert "cut off" in refusal(capsys, "doctor", run_file)
    assert "cut off" in refusal(capsys, "convert", run_file, tmp_path / "model")
