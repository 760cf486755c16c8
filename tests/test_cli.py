import subprocess
import sys
from pathlib import Path

import pytest
import torch

from endofm import hub
from endofm.cli import main
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import read_segment
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from tests.make import frame_indices, write_video


def first_frames(segment):
    frames, _ = read_segment(segment, lambda length: list(range(min(length, 3))))
    return frame_indices(frames)


def refusal(capsys, *words):
    """What the command says on stderr as it ends with status 1."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.endswith(".\n") and said.count("\n") == 1 and "Traceback" not in said
    return said


def save_model(folder):
    torch.manual_seed(0)
    model = TimeSformer(
        TimeSformerConfig(width=16, depth=1, num_heads=2, patch_pixels=8, image_pixels=32)
    )
    hub.save(folder, model, model.input_spec, {})
    return folder


def test_a_manifest_beside_its_videos_needs_no_root(tmp_path, capsys):
    write_video(tmp_path / "in/day 1/a[1].mp4", 60)
    (tmp_path / "in/broken.mp4").write_bytes(b"no video")
    main(["manifest", str(tmp_path / "in"), str(tmp_path / "m.csv"), "--clip-seconds", "1"])
    said = capsys.readouterr().out
    segments = read_manifest(tmp_path / "m.csv")
    assert [s.name for s in segments] == ["in/day 1/a[1].mp4[0:30]", "in/day 1/a[1].mp4[30:60]"]
    assert {s.group for s in segments} == {"in/day 1/a[1].mp4"}
    assert first_frames(segments[1]) == [30, 31, 32]
    assert "clips 2, files and folders 1, frames 60, left out 1" in said
    assert str(tmp_path / "in/broken.mp4") in said.splitlines()[0]
    assert "--data.root" not in said


def test_a_manifest_elsewhere_prints_the_root_that_reads_it(tmp_path, capsys):
    write_video(tmp_path / "my videos/a.mp4", 20)
    out = tmp_path / "lists/m.csv"
    main(["manifest", str(tmp_path / "my videos"), str(out)])
    assert f"--data.root '{tmp_path}/my videos'" in capsys.readouterr().out
    (segment,) = read_manifest(out, tmp_path / "my videos")
    assert segment.path == "a.mp4" and first_frames(segment) == [0, 1, 2]


def test_a_manifest_can_start_from_a_root_of_choice(tmp_path, capsys):
    write_video(tmp_path / "disk/site/a.mp4", 20)
    out = tmp_path / "lists/m.csv"
    main(["manifest", str(tmp_path / "disk/site"), str(out), "--root", str(tmp_path / "disk")])
    assert f"--data.root {tmp_path}/disk --explain\n" in capsys.readouterr().out
    (segment,) = read_manifest(out, tmp_path / "disk")
    assert segment.path == "site/a.mp4" and first_frames(segment) == [0, 1, 2]
    words = ("manifest", tmp_path / "disk/site", out, "--root", tmp_path / "lists")
    assert "does not lie in the root" in refusal(capsys, *words)


def test_videos_can_stay_whole(tmp_path):
    write_video(tmp_path / "a.mp4", 60)
    words = ["manifest", str(tmp_path), str(tmp_path / "m.csv"), "--clip-seconds", "None"]
    main(words)
    assert [s.name for s in read_manifest(tmp_path / "m.csv")] == ["a.mp4[0:60]"]


def test_a_folder_without_videos_gives_no_manifest(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    said = refusal(capsys, "manifest", tmp_path / "in", tmp_path / "m.csv")
    assert "holds no usable video" in said and not (tmp_path / "m.csv").exists()


def test_a_synthetic_corpus_is_one_that_training_can_read(tmp_path):
    out = tmp_path / "corpus"
    sizes = ["--num-frames", "2", "--height", "32", "--width", "32"]
    main(["synthetic", str(out), "--num-clips", "2", *sizes, "--seed", "5"])
    assert [s.labels["polyp"] for s in read_manifest(out / "manifest.csv")].count("polyp") == 1


def test_a_corpus_made_otherwise_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "file.txt").write_text("mine")
    assert "holds other files" in refusal(capsys, "synthetic", tmp_path)


def test_a_whole_model_passes_its_check(tmp_path, capsys):
    main(["check", str(save_model(tmp_path / "model"))])
    said = capsys.readouterr().out
    assert "width 16, depth 1, 2 heads" in said and "8 frames of 32 x 32 px" in said
    assert "relative difference 0.0e+00" in said


def test_a_model_with_other_weights_fails_its_check(tmp_path, capsys):
    one, other = save_model(tmp_path / "one"), tmp_path / "other"
    torch.manual_seed(1)
    model = TimeSformer(hub.load(one).config)
    hub.save(other, model, model.input_spec, {})
    (other / "model.safetensors").replace(one / "model.safetensors")
    assert "does not give its reference output" in refusal(capsys, "check", one)
    assert "not a model folder" in refusal(capsys, "check", tmp_path)


def test_a_report_is_written_into_the_run(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("run: {}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    main(["report", str(tmp_path)])
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_models_are_listed_with_their_size(capsys):
    main(["models"])
    assert "timesformer_base  121 M parameters" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.yaml").write_text("run: {}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: Path("/dev/full").write_bytes(b"x"))
    assert "No space left on device" in refusal(capsys, "report", tmp_path)


def test_a_fault_of_the_system_is_one_sentence_too(tmp_path, capsys, monkeypatch):
    def fail(folder):
        raise OSError(5, "Input/output error", str(folder / "report.html"))

    monkeypatch.setattr("endofm.cli.report.run_page", fail)
    assert "report.html: Input/output error; the system" in refusal(capsys, "report", tmp_path)


def test_names_in_brackets_are_printed_as_they_are(tmp_path, capsys):
    assert "[/red][bold]x" in refusal(capsys, "check", tmp_path / "[" / "red][bold]x")


def test_the_module_runs_as_the_command():
    words = [sys.executable, "-m", "endofm", "check", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere is not a model folder")
