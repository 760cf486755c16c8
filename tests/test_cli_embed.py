import csv

import av
import cv2
import numpy as np
import pytest
import torch

import endofm
from endofm import hub
from endofm.cli import main
from endofm.models.input import InputSpec
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from tests.make import frame_index, numbered_frame, overwrite, write_frames, write_video

SHAPE = {"width": 16, "depth": 1, "num_heads": 2, "patch_pixels": 8, "image_pixels": 32}


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model")


def save_model(folder, seed=0):
    torch.manual_seed(seed)
    model = TimeSformer(TimeSformerConfig(num_frames=4, **SHAPE))
    hub.save(folder, model, InputSpec(num_frames=4, pixels=32), {})
    return folder


def run(*words):
    main([*map(str, words), "--device", "cpu"])


def refusal(capsys, *words):
    """What the command says on stderr as it ends with status 1."""
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.endswith(".\n") and said.count("\n") == 1 and "Traceback" not in said
    return said


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_videos_become_files_in_the_same_tree(tmp_path, model, capsys):
    for name in ("a/x.mp4", "b/x.mp4", "b/x.avi"):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        write_video(tmp_path / "in" / name, 60, (48, 64), codec)
    write_frames(tmp_path / "in/frames", [numbered_frame(k) for k in range(8)])
    run("embed", model, tmp_path / "in", "--out", tmp_path / "out", "--clip-seconds", "1",
        "--source-fps", "4")  # fmt: skip
    expected = ["a/x.mp4.npz", "b/x.avi.npz", "b/x.mp4.npz", "frames.npz"]
    assert tree(tmp_path / "out") == expected
    assert "embedded 4, there already 0, not embedded 0" in capsys.readouterr().out
    made = endofm.Embedding.load(tmp_path / "out/a/x.mp4.npz")
    again = endofm.embed(endofm.load(model), tmp_path / "in/a/x.mp4", clip_seconds=1)
    np.testing.assert_allclose(made.features, again.features, atol=1e-5)
    np.testing.assert_allclose(made.stop_seconds, [1, 2], atol=1e-3)
    assert made.settings["clip_seconds"] == 1.0 and len(made.settings["model"]) == 16


def test_sources_in_several_places_keep_their_names_apart(tmp_path, model):
    videos = [write_video(tmp_path / name / "x.mp4", 8, (48, 64)) for name in ("a", "b")]
    frames = write_frames(tmp_path / "c", [numbered_frame(k) for k in range(4)])
    run("embed", model, *videos, frames, "--out", tmp_path / "out")
    assert tree(tmp_path / "out") == ["a/x.mp4.npz", "b/x.mp4.npz", "c.npz"]
    run("embed", model, frames, "--out", tmp_path / "one", "--tokens", "--attention")
    made = endofm.Embedding.load(tmp_path / "one/c.npz")
    assert made.tokens.shape == (1, 4, 4, 4, 16) and made.attention.shape == (1, 4, 4, 4)


def test_a_second_run_does_only_what_is_missing_or_not_whole(tmp_path, model, capsys):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(tmp_path / "in" / name, 8, (48, 64))
    words = ("embed", model, tmp_path / "in", "--out", tmp_path / "out")
    run(*words)
    files = {name: tmp_path / f"out/{name}.mp4.npz" for name in "abc"}
    files["a"].unlink()
    whole = files["b"].read_bytes()
    files["b"].write_bytes(whole[:-30])
    before = files["c"].stat().st_mtime_ns
    capsys.readouterr()
    run(*words)
    assert "embedded 2, there already 1, not embedded 0" in capsys.readouterr().out
    assert files["c"].stat().st_mtime_ns == before
    endofm.Embedding.load(files["a"])
    endofm.Embedding.load(files["b"])


def test_features_of_another_model_or_other_settings_are_not_mixed_in(tmp_path, model, capsys):
    video, out = write_video(tmp_path / "v.mp4", 8, (48, 64)), tmp_path / "out"
    run("embed", model, video, "--out", out)
    before = (out / "v.mp4.npz").read_bytes()
    said = refusal(capsys, "embed", model, video, "--out", out, "--step-seconds", "2")
    assert "made with step_seconds None, but 2.0 is asked for" in said
    other = save_model(tmp_path / "other", seed=1)
    assert "v.mp4.npz was made with model" in refusal(capsys, "embed", other, video, "--out", out)
    assert (out / "v.mp4.npz").read_bytes() == before


def test_broken_videos_are_listed_and_the_rest_is_done(tmp_path, model, capsys):
    for name in ("a.mp4", "c.mp4"):
        write_video(tmp_path / "in" / name, 8, (48, 64))
    (tmp_path / "in/b.mp4").write_bytes(b"no video")
    overwrite(write_video(tmp_path / "in/d.mp4", 40, (48, 64)), 0.5, 300)
    words = ("embed", model, tmp_path / "in", "--out", tmp_path / "out")
    said = refusal(capsys, *words)
    assert "2 of 4 sources could not be embedded" in said and "failures.csv" in said
    assert tree(tmp_path / "out") == ["a.mp4.npz", "c.mp4.npz", "failures.csv"]
    with (tmp_path / "out/failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [str(tmp_path / f"in/{x}.mp4") for x in "bd"]
    assert all(row["source"] in row["reason"] for row in rows)
    for name in "bd":
        write_video(tmp_path / f"in/{name}.mp4", 8, (48, 64))
    run(*words)
    assert tree(tmp_path / "out") == [f"{name}.mp4.npz" for name in "abcd"]


def test_a_gpu_too_small_ends_the_command_with_a_hint(tmp_path, model, capsys, monkeypatch):
    def full(self, clip):
        raise torch.OutOfMemoryError("CUDA out of memory")

    loaded = endofm.load(model)
    monkeypatch.setattr(hub, "load", lambda name: loaded)
    monkeypatch.setattr(TimeSformer, "forward", full)
    video = write_video(tmp_path / "v.mp4", 120, (48, 64))
    words = ("embed", model, video, "--out", tmp_path / "out", "--clip-seconds", "0.5")
    assert "--batch-size 4" in refusal(capsys, *words)


def test_what_can_not_be_embedded_is_refused_in_a_sentence(tmp_path, model, capsys, monkeypatch):
    video = write_video(tmp_path / "v.mp4", 8, (48, 64))
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    said = refusal(capsys, "embed", model, tmp_path / "empty", *out)
    assert "holds no video and no pictures" in said
    assert "absent does not exist" in refusal(capsys, "embed", model, tmp_path / "absent", *out)
    assert "not a model folder" in refusal(capsys, "embed", tmp_path / "empty", video, *out)
    assert "batch_size is 0" in refusal(capsys, "embed", model, video, *out, "--batch-size", "0")
    assert "step_seconds is -1" in refusal(
        capsys, "embed", model, video, *out, "--step-seconds", "-1"
    )
    grey = TimeSformer(TimeSformerConfig(in_channels=1, **SHAPE))
    monkeypatch.setattr(hub, "load", lambda name: grey)
    assert "1 channel, but video is read as RGB" in refusal(capsys, "embed", model, video, *out)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path, model, capsys):
    video = write_video(tmp_path / "v.mp4", 8, (48, 64))
    for device in ("cuda:77", "toaster"):
        words = ["embed", model, video, "--out", tmp_path / "out", "--device", device]
        with pytest.raises(SystemExit):
            main([*map(str, words)])
        assert f"The device '{device}' can't be used here" in capsys.readouterr().err


def test_look_writes_a_film_with_every_frame_that_clips_take(tmp_path, model, capsys):
    video = write_video(tmp_path / "v.mp4", 70, (48, 64), fps=20)
    run("look", model, video, "--out", tmp_path / "deep/look.mp4")
    assert "look.mp4 shows" in capsys.readouterr().out
    with av.open(str(tmp_path / "deep/look.mp4")) as film:
        stream = film.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert stream.average_rate == 4 and stream.codec_context.name == "h264"
    shown = [frame_index(picture[28:348, :320]) for picture in pictures]
    # Middles of quarters of seconds; of the last clip only what the video still has.
    assert shown == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47, 52, 57, 62, 67]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["look.mp4"]


def test_look_writes_a_sheet_and_refuses_other_endings(tmp_path, model, capsys):
    folder = write_frames(tmp_path / "frames", [numbered_frame(k) for k in range(6)])
    run("look", model, folder, "--out", tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 2 * 3 * 128 and sheet.shape[1] > 4 * 128
    said = refusal(capsys, "look", model, folder, "--out", tmp_path / "sheet.gif")
    assert "neither in .mp4 nor in .png" in said
