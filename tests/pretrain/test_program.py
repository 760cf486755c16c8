"""The program from end to end, on a corpus and network that train in seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import endofm
from endofm.config import to_yaml
from endofm.data.pretraining.dataset import ClipViews, load_corpus
from endofm.errors import RunError
from endofm.report.views import clip_block, stack, views_sheet, write_png
from endofm.training.checkpoint import Checkpoints
from pretrain.__main__ import main
from pretrain.train import train
from tests.small import small_recipe, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(out):
    return sorted((out / "checkpoints").glob("step-*"))[-1]


def flags(config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(config), encoding="utf-8")
    return ["--config", str(recipe)]


def test_a_run_leaves_metrics_a_checkpoint_and_a_model(manifest, tmp_path):
    folder = train(small_recipe(manifest, tmp_path / "run"))
    model = endofm.load(folder)
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 128)
    assert model.input_spec.num_frames == 4 and model.input_spec.pixels == 32
    written = rows(tmp_path / "run")
    assert [row["step"] for row in written] == [2, 4, 6]
    wanted = {"loss", "cross_view", "dynamic", "gradient_norm", "learning_rate", "data_wait_share"}
    assert all(wanted <= set(row) for row in written)
    checkpoint = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    teacher = {n.removeprefix("teacher.backbone."): t for n, t in checkpoint.items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, teacher[name])


@pytest.mark.parametrize(("workers", "precision"), [(0, "no"), (2, "no"), (0, "bf16")])
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(
    manifest, tmp_path, workers, precision, monkeypatch
):
    def recipe(out):
        config = small_recipe(manifest, tmp_path / out, save_every=2, precision=precision)
        return replace(
            config,
            data=replace(config.data, workers=workers),
            optim=replace(config.optim, accumulate=1),
        )

    train(recipe("whole"))
    save, saved = Checkpoints.save, []

    def die_after_the_second(self, step):
        path = save(self, step)
        saved.append(step)
        if step == 4:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr(Checkpoints, "save", die_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(recipe("broken"))
    monkeypatch.setattr(Checkpoints, "save", save)
    train(recipe("broken"))
    assert saved == [2, 4]
    one, two = (
        load_file(last_checkpoint(tmp_path / o) / "model.safetensors") for o in ("whole", "broken")
    )
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    strip = ("clips_per_second", "step_seconds", "data_wait_share", "teacher_entropy",
             "marginal_entropy", "feature_std", "rankme", "memory_gib")  # fmt: skip
    whole, broken = (
        [{k: v for k, v in row.items() if k not in strip} for row in rows(tmp_path / out)]
        for out in ("whole", "broken")
    )
    assert whole == broken


def test_a_half_written_checkpoint_is_never_taken_for_whole(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    train(config)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == ["step-00000004", "step-00000006"]
    (folder / "step-00000006" / "whole.json").unlink()
    (folder / "part-00000009").mkdir()
    train(config)
    assert [path.name for path in sorted(folder.iterdir())] == ["step-00000004", "step-00000006"]
    assert (folder / "step-00000006" / "whole.json").is_file()


def test_a_failed_save_keeps_the_checkpoint_before(manifest, tmp_path, monkeypatch):
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    from accelerate import Accelerator

    real, calls = Accelerator.save_state, []

    def full_disk(self, output_dir, **kwargs):
        calls.append(output_dir)
        if len(calls) == 2:
            (Path(output_dir) / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(self, output_dir, **kwargs)

    monkeypatch.setattr(Accelerator, "save_state", full_disk)
    with pytest.raises(RunError, match=r"step 4 can't be written.*No space left.*untouched"):
        train(config)
    kept = tmp_path / "run" / "checkpoints"
    assert [path.name for path in kept.iterdir()] == ["step-00000002"]


def test_a_run_starts_from_a_model_folder_and_goes_on_without_it(manifest, tmp_path):
    train(small_recipe(manifest, tmp_path / "first"))
    start = tmp_path / "first" / "model"
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    config = replace(config, model=replace(config.model, init_from=str(start)))
    train(config)
    whole = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    (last_checkpoint(tmp_path / "run") / "whole.json").unlink()
    start.rename(tmp_path / "elsewhere")
    train(config)
    again = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    card = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert card["provenance"]["started from"] == "model"


def test_another_configuration_in_the_folder_is_refused_with_the_difference(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run")
    train(config)
    other = replace(config, optim=replace(config.optim, lr_per_256=0.1))
    with pytest.raises(RunError, match=r"optim\.lr_per_256: 0\.0005 -> 0\.1"):
        train(other)
    train(replace(config, run=replace(config.run, log_every=3)))  # no number depends on it


def test_a_run_goes_on_with_its_batch_divided_otherwise(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    train(config)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-00000006" / "whole.json").unlink()
    train(replace(config, optim=replace(config.optim, batch_size=1, accumulate=2)))
    assert (folder / "step-00000006" / "whole.json").is_file()
    with pytest.raises(RunError, match=r"2 clips a step, and this start has 4"):
        train(replace(config, optim=replace(config.optim, accumulate=2)))


def test_a_run_does_not_go_on_with_other_clips(tmp_path):
    manifest = write_corpus(tmp_path)
    config = small_recipe(manifest, tmp_path / "run")
    train(config)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:-1], lines[-1].replace(",0,12,", ",0,11,")]) + "\n")
    with pytest.raises(RunError, match="other clips than the manifests list now"):
        train(config)


def test_accelerates_own_accumulation_setting_does_not_shrink_gradients(
    manifest, tmp_path, monkeypatch
):
    train(small_recipe(manifest, tmp_path / "plain"))
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(small_recipe(manifest, tmp_path / "set"))
    plain, given = ([row["gradient_norm"] for row in rows(tmp_path / o)] for o in ("plain", "set"))
    assert plain == given


def test_a_second_run_in_the_same_folder_is_refused(manifest, tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from endofm.training.setup import hold_folder\n"
        "lock = hold_folder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="Another run is writing"):
        train(small_recipe(manifest, tmp_path / "run"))
    other.kill()
    other.communicate()
    train(small_recipe(manifest, tmp_path / "run"))


def test_a_run_gives_signals_back(manifest, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(small_recipe(manifest, tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_batch(
    manifest, tmp_path, monkeypatch
):
    from endofm.tasks.pretraining import endofm as pretraining

    real, calls = pretraining.dino_loss, []

    def broken_at_the_fourth(*args):
        calls.append(1)
        loss = real(*args)
        return loss._replace(total=loss.total * float("nan")) if len(calls) == 4 else loss

    monkeypatch.setattr(pretraining, "dino_loss", broken_at_the_fourth)
    config = small_recipe(manifest, tmp_path / "run", save_every=2)
    with pytest.raises(RunError, match=r"Step 3 .*not finite \(loss.*clip_\d.mp4.*clip_\d.mp4"):
        train(config)
    assert last_checkpoint(tmp_path / "run").name == "step-00000002"


def test_broken_clips_are_named_and_too_many_stop_the_run(tmp_path):
    manifest = write_corpus(tmp_path)
    (tmp_path / "clip_1.mp4").write_text("<html>404</html>")
    config = small_recipe(manifest, tmp_path / "run")
    with pytest.raises(RunError, match=r"1 of 6 clips can't be decoded.*max_broken_share"):
        train(config)
    assert "clip_1.mp4" in (tmp_path / "run" / "quarantine.csv").read_text()
    patient = replace(config, data=replace(config.data, max_broken_share=0.3))
    patient = replace(patient, run=replace(config.run, out=tmp_path / "other"))
    train(patient)
    assert rows(tmp_path / "other")[-1]["broken_clips"] == 1


def test_too_many_broken_clips_stop_the_same_command_again_until_the_user_acts(tmp_path, capsys):
    manifest = write_corpus(tmp_path)
    (tmp_path / "clip_1.mp4").write_text("<html>404</html>")
    config = small_recipe(manifest, tmp_path / "run", save_every=1, log_every=1)

    def start(share=0.0):
        AcceleratorState._reset_state(True)
        train(replace(config, data=replace(config.data, max_broken_share=share)))

    with pytest.raises(RunError, match=r"can't be decoded.*delete that file, raise the share"):
        start()
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept, "clip_1 was met in the first step: take another seed"
    with pytest.raises(RunError, match=r"1 of 6 clips can't be decoded"):
        start()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == kept
    capsys.readouterr()
    start(share=0.3)
    assert "1 clips stay out" in capsys.readouterr().out
    assert rows(tmp_path / "run")[-1] | {"step": 6, "broken_clips": 1} == rows(tmp_path / "run")[-1]


BAD = {
    "a missing manifest": (["--data.manifests", "absent.csv"], "absent.csv"),
    "no manifest": (["--data.manifests"], "data.manifests is empty"),
    "a recipe that is not there": (["--config", "absent.yaml"], "absent.yaml"),
    "a batch larger than the corpus": (["--optim.batch-size", "100"], "has only 6"),
    "more views than memory": (
        ["--views.local-frames", *["16"] * 400, "--views.local-pixels", "960",
         "--model.name", "timesformer_base"],
        "GiB",
    ),
    "a folder that can't be written": (["--run.out", "/proc/run"], "/proc/run"),
    "an unknown model": (["--model.name", "timesformer_bse"], "timesformer_base"),
    "weights that are not there": (["--model.init-from", "absent.pth"], "absent.pth"),
    "a local view that patches can't tile": (["--views.local-pixels", "20"], "views.local_pixels"),
    "a patch that doesn't tile": (["--views.global-pixels", "36"], "multiple"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_before_the_start(case, manifest, tmp_path, capsys):
    given, told = BAD[case]
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*recipe, *given] if "--config" not in given else given)
    assert stop.value.code == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error:") and told in message, message
    assert len(message.splitlines()) == 1 and message.endswith((".", ")")), message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_explain_says_what_a_run_would_do_and_starts_nothing(manifest, tmp_path, capsys):
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    main([*recipe, "--explain"])
    told = capsys.readouterr().out
    for words in ("6 in 1 manifests", "4 x 32 px", "6: 2 cross-view", "6 (2 epochs of 3)", "GiB"):
        assert words in told, told
    assert not (tmp_path / "run").exists()


def test_explain_refuses_a_start_that_the_run_would_refuse(manifest, tmp_path, capsys):
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    for given, told in (
        (["--model.init-from", "absent.pth"], "absent.pth is not a file"),
        (["--run.knn", "absent.csv", "polyp", "3"], "absent.csv"),
    ):
        with pytest.raises(SystemExit):
            main([*recipe, *given, "--explain"])
        assert told in capsys.readouterr().err
    main([*recipe, "--run.precision", "fp16", "--explain"])
    assert torch.cuda.is_available() or "fp16 needs a GPU" in capsys.readouterr().out


def test_explain_of_a_step_that_cannot_fit_ends_with_the_sentence(manifest, tmp_path, capsys):
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    given, told = BAD["more views than memory"]
    with pytest.raises(SystemExit) as stop:
        main([*recipe, *given, "--explain"])
    said = capsys.readouterr()
    assert stop.value.code == 1 and "memory           about" in said.out
    assert said.err.startswith("error:") and told in said.err and said.err.count("\n") == 1


def test_explain_of_the_paper_has_the_published_arithmetic(manifest, tmp_path, capsys):
    main(["--config", str(ROOT / "pretrain/configs/endofm_paper.yaml"), "--explain",
          "--data.manifests", str(manifest), "--optim.batch-size", "1"])  # fmt: skip
    told = capsys.readouterr().out
    assert "6.29 TFLOP a clip" in told and "18: 2 cross-view" in told and "65" not in told[:40]


def test_show_views_passes_over_a_broken_clip_as_the_run_does(tmp_path, capsys):
    manifest = write_corpus(tmp_path)
    for number in range(4):
        (tmp_path / f"clip_{number}.mp4").write_bytes(b"broken")
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    main([*recipe, "--show-views", str(tmp_path / "views.png")])
    assert (tmp_path / "views.png").stat().st_size > 1000


def test_show_views_draws_what_the_run_will_see(manifest, tmp_path):
    recipe = flags(small_recipe(manifest, tmp_path / "run"), tmp_path)
    main([*recipe, "--show-views", str(tmp_path / "views.png")])
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    drawn = cv2.imread(str(tmp_path / "views.png"))[..., ::-1]
    config = small_recipe(manifest, tmp_path / "run")
    corpus = load_corpus(config.data)
    samples = [ClipViews(corpus, config.data, config.views, config.run.seed)[n] for n in range(3)]
    cut = [clip_block(sample.views, config.views, sample.name) for sample in samples]
    assert np.array_equal(drawn, stack(cut))
    assert not np.array_equal(drawn, views_sheet(corpus, config.data, config.views, seed=1))


@pytest.mark.parametrize("name", ["views.jpg", "views"])
def test_show_views_draws_nothing_but_a_png(manifest, tmp_path, capsys, name):
    with pytest.raises(SystemExit) as stop:
        main(["--data.manifests", str(manifest), "--show-views", str(tmp_path / name)])
    assert stop.value.code == 1 and "doesn't end in .png" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_part_of_a_picture(tmp_path, monkeypatch):
    (tmp_path / "v.png").write_bytes(b"old")

    def full_disk(path, data):
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(RunError, match=r"v\.png can't be written \(No space left"):
        write_png(tmp_path / "v.png", np.zeros((4, 4, 3), np.uint8))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("v.png", b"old")]


def test_sigterm_saves_and_the_same_command_goes_on(manifest, tmp_path):
    config = small_recipe(manifest, tmp_path / "run", save_every=10_000, log_every=1)
    config = replace(
        config,
        optim=replace(config.optim, epochs=20_000),
        data=replace(config.data, workers=1),
    )
    command = [sys.executable, "-m", "pretrain", *flags(config, tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "run" / "metrics.jsonl").exists() and len(rows(tmp_path / "run")) >= 2:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: the workers get it too
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the same command goes on" in output
    step = json.loads((last_checkpoint(tmp_path / "run") / "whole.json").read_text())["step"]
    assert step >= 2 and rows(tmp_path / "run")[-1]["step"] == step


@pytest.mark.parametrize("bf16", [5e10, 2e12])
def test_a_cpu_that_is_slow_in_bf16_is_warned_of(manifest, tmp_path, monkeypatch, capsys, bf16):
    speeds = {"no": 1e12, "bf16": bf16}
    for module in ("endofm.training.estimate", "pretrain.plan"):
        monkeypatch.setattr(f"{module}.matrix_speed", lambda device, kind, **_: speeds[kind])
    AcceleratorState._reset_state(True)
    recipe = flags(small_recipe(manifest, tmp_path / "run", precision="bf16"), tmp_path)
    for asked in ([], ["--explain"]):
        main([*recipe, *asked])
        told = capsys.readouterr().out
        assert told.count("0.05 times the speed of float32") == int(bf16 < 1e12), asked
        assert ("give --run.precision no" in told) is (bf16 < 1e12), asked


def test_bf16_trains_on_a_cpu_too(manifest, tmp_path):
    losses = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(True)
        train(small_recipe(manifest, tmp_path / precision, precision=precision))
        losses.append([row["loss"] for row in rows(tmp_path / precision)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


def test_a_tracker_that_fails_never_stops_the_run(manifest, tmp_path, monkeypatch):
    from endofm.training import trackers

    def fail(*args, **kwargs):
        raise ConnectionError("no server")

    monkeypatch.setattr(trackers, "WandBTracker", fail)
    out = tmp_path / "run"
    train(small_recipe(manifest, out, trackers=("wandb", "tensorboard")))
    assert len(rows(out)) == 3
    assert list((out / "tensorboard").rglob("events.*"))
