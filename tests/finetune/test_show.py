"""Pictures, films and the page of a result, made from its folder alone."""

import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from endofm.data.labelled.annotations import read_masks
from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.errors import ManifestError, RunError
from endofm.models.registry import create_model
from endofm.tasks.finetuning.contract import TaskConfig
from endofm.tasks.finetuning.finetuned import Adapters, build_task, load_finetuned, save_finetuned
from endofm.tasks.segmentation.task import Segmentation
from finetune.compare import compare
from finetune.evaluate import Evaluate, evaluate
from finetune.show import Show, main, show
from tests.labelled import write_labelled

CLASSES = {
    "classification": ("normal", "polyp"),
    "segmentation": ("background", "polyp"),
    "detection": ("polyp",),
    "video_detection": ("polyp",),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("corpus"), 8, num_frames=3, splits=("train",))


def judged(folder, manifest, kind):
    """An untrained model's result, as `finetune.evaluate` leaves it."""
    torch.manual_seed(0)
    settings = dict(depth=1, patch_pixels=8, image_pixels=32, num_frames=2, width=24, num_heads=2)
    clip_spec = ClipSpec(kind, CLASSES[kind], LabelledConfig(label="polyp"), 2, 32)
    options = TaskConfig(kind=kind)
    task = build_task(create_model("timesformer_tiny", **settings), clip_spec, options)
    save_finetuned(folder / "model", task, options, Adapters(), {})
    evaluate(Evaluate(folder / "model", manifest, out=folder, workers=0))
    return folder


SLOW_ON_CPUS = pytest.param("video_detection", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection", SLOW_ON_CPUS])
def test_a_result_becomes_pictures_films_and_a_page(tmp_path, manifest, kind):
    folder = judged(tmp_path, manifest, kind)
    page = show(Show(folder, manifest=manifest, cases=2, films=1, masks=True))
    for name in ("worst.png", "best.png"):
        picture = cv2.imread(str(folder / name))
        assert picture.shape[0] > 360 and picture.std() > 20
    text = page.read_text()
    assert text.count("<img") == 2 and "Worst cases" in text and "clip_0" in text
    (path,) = (folder / "films").glob("*.mp4")
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3  # every frame of the clip, once
    if kind == "segmentation":
        name = path.name.removesuffix(".mp4")
        read = read_masks(Segment(folder, name, masks=f"masks/{name}"), range(3), 2, (40, 48))
        task = load_finetuned(folder / "model").task
        assert isinstance(task, Segmentation) and read.shape == (3, 40, 48)
    # The pages of two equal results say that nothing differs.
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("samples.csv", "metrics.json"):
        (twin / name).write_text((folder / name).read_text())
    (differences,) = compare([folder, twin]).differences
    assert all(told.value in (0, None) for told in differences.values()) and differences


def test_the_picture_shows_the_video_s_own_frame(tmp_path, manifest):
    folder = judged(tmp_path, manifest, "classification")
    show(Show(folder, manifest=manifest, cases=2))
    sheet = cv2.imread(str(folder / "worst.png"))[..., ::-1]
    polyp = np.abs(sheet.astype(int) - (250, 220, 200)).max(-1) < 12
    assert polyp.sum() > 1000  # one of the two clips has the bright square


@pytest.mark.parametrize("unit", ["groups", "rows"])
def test_samples_of_patients_and_of_rows_are_found_in_the_manifest(tmp_path, manifest, unit):
    folder = judged(tmp_path, manifest, "classification")
    text = manifest.read_text()
    if unit == "groups":
        segments = [replace(s, group=f"patient of {s.path}") for s in read_manifest(manifest)]
    else:  # two rows of a file with different labels
        first, *rest = read_manifest(manifest)
        one = replace(first, stop_frame=2, split="test")
        two = replace(first, start_frame=2, split="test", labels={"polyp": "normal"})
        segments = [one, two, *rest]
    other = manifest.with_name(f"{unit}.csv")
    write_manifest(other, segments)
    AcceleratorState._reset_state(True)
    evaluate(Evaluate(folder / "model", other, out=folder, workers=0))
    assert json.loads((folder / "metrics.json").read_text())["unit"] == unit
    show(Show(folder, manifest=other, cases=2, films=1))
    assert len(list((folder / "films").rglob("*.mp4"))) == 1 and manifest.read_text() == text


# Bad input


def test_what_can_not_be_shown_is_one_sentence(tmp_path, manifest, capsys):
    folder = judged(tmp_path / "one", manifest, "classification")
    with pytest.raises(RunError, match="--manifest"):
        show(Show(folder))
    other = write_labelled(tmp_path / "other", 4, splits=())
    for clip in sorted((tmp_path / "other").glob("clip_*")):
        clip.rename(clip.with_name("x" + clip.name))
    other.write_text(other.read_text().replace("clip_", "xclip_"))
    with pytest.raises(ManifestError, match=r"test sample clip_0\d is not in the manifest"):
        show(Show(folder, manifest=other))
    two = tmp_path / "two"
    for seed in (0, 1):
        (two / f"seed_{seed}").mkdir(parents=True)
        for name in ("samples.csv", "metrics.json"):
            (two / f"seed_{seed}" / name).write_text((folder / name).read_text())
    with pytest.raises(SystemExit):
        main([str(two), "--manifest", str(manifest)])
    assert "several seeds; give one" in capsys.readouterr().err.replace("\n", " ")


def test_the_manifest_is_that_of_the_result_s_configuration(tmp_path, manifest):
    folder = judged(tmp_path, manifest, "classification")
    told = json.loads((folder / "metrics.json").read_text())
    told["config"] = {"data": {"manifests": [str(manifest)], "root": None}}
    (folder / "metrics.json").write_text(json.dumps(told))
    assert show(Show(folder, cases=1)).is_file()
