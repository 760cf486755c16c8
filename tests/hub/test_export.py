import importlib.util
import json

import numpy as np
import pytest
import torch

import endofm
from endofm import hub
from endofm.cli import main
from endofm.errors import ConfigError, WeightsError
from endofm.hub import export as exporting
from endofm.hub.export import TOLERANCE, export
from endofm.models.input import InputSpec
from endofm.models.timesformer import TimeSformer, TimeSformerConfig

SPEC = InputSpec((0.4, 0.3, 0.2), (0.2, 0.2, 0.1), num_frames=4, pixels=32)
KINDS = ("divided_space_time", "joint_space_time", "space_only")


def small_model(attention="divided_space_time", **settings):
    torch.manual_seed(0)
    settings = {"patch_pixels": 8, "image_pixels": 32, "num_frames": 4} | settings
    model = TimeSformer(
        TimeSformerConfig(width=24, depth=2, num_heads=2, attention=attention, **settings)
    )
    for parameter in model.parameters():  # time and place shall matter
        torch.nn.init.normal_(parameter, std=0.1)
    model.input_spec = SPEC
    return model.eval()


def noise(batch, frames=4, pixels=32):
    generator = torch.Generator().manual_seed(7 + batch)
    shape = (batch, frames, pixels, pixels, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def onnx_session(file):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(file, providers=["CPUExecutionProvider"])


def assert_near(given, own):
    assert np.linalg.norm(given - own) <= TOLERANCE * np.linalg.norm(own)


@torch.no_grad()
def eager(model, frames):
    clip = model.input_spec.normalize(frames)
    return model(clip).numpy(), model.tokens(clip).numpy()


@pytest.mark.parametrize("attention", KINDS)
def test_onnx_gives_the_models_outputs_for_any_batch(tmp_path, attention):
    model = small_model(attention)
    done = export(model, tmp_path / "model.onnx")
    assert 0 <= done.difference <= TOLERANCE and done.frames == (4, 32, 32)
    session = onnx_session(done.file)
    for batch in (1, 2, 5):
        frames = noise(batch)
        outputs = session.run(["feature", "tokens"], {"frames": frames.numpy()})
        for given, own in zip(outputs, eager(model, frames), strict=True):
            assert given.shape == own.shape
            assert_near(given, own)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("attention", KINDS)
def test_torch_export_gives_the_models_outputs_for_any_batch(tmp_path, attention):
    model = small_model(attention)
    done = export(model, tmp_path / "model.pt2")
    program = torch.export.load(done.file).module()
    for batch in (1, 2, 5):
        frames = noise(batch)
        for given, own in zip(program(frames), eager(model, frames), strict=True):
            assert given.shape == own.shape
            assert_near(given.numpy(), own)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize("resize", ["nearest", "smooth"])
def test_another_clip_than_the_models_own_can_be_exported(tmp_path, resize):
    model = small_model(position_resize=resize)
    done = export(model, tmp_path / "model.onnx", num_frames=6, pixels=48)
    frames = noise(2, 6, 48)
    outputs = onnx_session(done.file).run(None, {"frames": frames.numpy()})
    for given, own in zip(outputs, eager(model, frames), strict=True):
        assert_near(given, own)


def test_long_sequences_take_the_fused_kernel_and_still_agree(tmp_path):
    model = small_model("joint_space_time")
    assert export(model, tmp_path / "model.onnx", num_frames=8, pixels=64).difference <= TOLERANCE
    assert export(model, tmp_path / "model.pt2", num_frames=8, pixels=64).difference <= TOLERANCE


def test_the_files_say_what_they_take_and_refuse_other_clips(tmp_path):
    model = small_model()
    session = onnx_session(export(model, tmp_path / "model.onnx").file)
    (frames,) = session.get_inputs()
    assert frames.shape == ["batch", 4, 32, 32, 3] and frames.type == "tensor(uint8)"
    assert [output.shape for output in session.get_outputs()] == [["batch", 24], ["batch", 65, 24]]
    facts = session.get_modelmeta().custom_metadata_map
    assert "[batch, 4, 32, 32, 3]" in facts["input"] and "another export" in facts["input"]
    assert json.loads(facts["settings"])["width"] == 24
    assert json.loads(facts["statistics"])["mean"] == list(SPEC.mean)
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        session.run(None, {"frames": noise(1, 5).numpy()})
    extra = {"endofm.json": ""}
    program = torch.export.load(
        export(model, tmp_path / "model.pt2").file, extra_files=extra
    ).module()
    assert json.loads(extra["endofm.json"]) == facts
    with pytest.raises((AssertionError, RuntimeError), match=r"(?s)(size|shape).*4"):
        program(noise(1, 5))


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_a_file_that_differs_from_its_model_never_gets_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("an older export")
    write = getattr(exporting, f"_write_{name[6:]}")

    def wrong(graph, frames, part, facts):
        graph.model.norm.bias.data += 0.01
        write(graph, frames, part, facts)
        graph.model.norm.bias.data -= 0.01

    monkeypatch.setattr(exporting, f"_write_{name[6:]}", wrong)
    with pytest.raises(WeightsError, match="differ from the model's by"):
        export(small_model(), tmp_path / name)
    assert (tmp_path / name).read_text() == "an older export"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_outputs_that_are_no_numbers_are_no_agreement(tmp_path):
    model = small_model()
    model.norm.bias.data[0] = float("nan")
    with pytest.raises(WeightsError, match="by nan"):
        export(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_stays_as_it_was(tmp_path):
    model = small_model().train().double()
    export(model, tmp_path / "model.pt2")
    assert model.training and model.norm.bias.dtype == torch.float64


def test_what_cannot_be_exported_is_refused_before_any_work(tmp_path, monkeypatch):
    model = small_model()
    monkeypatch.setattr(torch.export, "export", None)
    for name, told in [("model.pt", "neither .onnx nor .pt2"), ("sub.pt2", "is a folder")]:
        (tmp_path / "sub.pt2").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=told):
            export(model, tmp_path / name)
    with pytest.raises(ConfigError, match="can't be made of a Linear"):
        export(torch.nn.Linear(2, 2), tmp_path / "model.pt2")
    with pytest.raises(ConfigError, match="a multiple of the patch size 8"):
        export(model, tmp_path / "model.pt2", pixels=33)
    with pytest.raises(ConfigError, match="but this model wants 1 channels"):
        export(small_model(in_channels=1), tmp_path / "model.pt2")
    monkeypatch.setattr(exporting, "ONNX_BYTES", 100)
    with pytest.raises(ConfigError, match=r"don't fit into one \.onnx file"):
        export(model, tmp_path / "model.onnx")


def test_absent_onnx_packages_are_named_with_the_way_out(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    absent = "onnxscript"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == absent else find(name)
    )
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "nothing"), str(tmp_path / "model.onnx")])
    said = capsys.readouterr().err
    assert "needs onnxscript; run `pip install 'endofm[export]'`" in said
    export(small_model(), tmp_path / "model.pt2")


def test_the_command_exports_a_model_folder(tmp_path, capsys):
    model = small_model()
    hub.save(tmp_path / "model", model, SPEC, {})
    out = tmp_path / "exports/model.onnx"
    main(["export", str(tmp_path / "model"), str(out), "--num-frames", "2"])
    said = capsys.readouterr()
    assert "uint8 [batch, 2, 32, 32, 3]" in said.out and said.out.count("\n") == 1
    frames = noise(3, 2)
    outputs = onnx_session(out).run(None, {"frames": frames.numpy()})
    own = eager(endofm.load(tmp_path / "model"), frames)
    assert_near(outputs[0], own[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_a_full_size_model_can_be_exported(tmp_path, name):
    torch.manual_seed(0)
    model = endofm.create_model("timesformer_small").eval()
    for part, parameter in model.named_parameters():
        if "temporal_fc.weight" in part or part == "time_embed":
            torch.nn.init.normal_(parameter, std=0.02)
    done = export(model, tmp_path / name)
    assert done.frames == (8, 224, 224) and done.difference <= TOLERANCE
    assert done.file.stat().st_size > 100 * 2**20
