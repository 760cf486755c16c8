import csv
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from endofm.data.labelled.annotations import check_annotations
from endofm.data.manifests.manifest import read_manifest
from endofm.errors import ConfigError, OutputError
from endofm.synthetic import SCENES, CorpusSpec, SyntheticClip, render_clip, write_corpus
from endofm.synthetic.corpus import _write_video, plan_clip

TINY = CorpusSpec(num_clips=3, num_frames=14, height=48, width=64)


def small_clip(
    seed: int = 0, scene: str | None = None, has_polyp: bool | None = None
) -> SyntheticClip:
    return render_clip(seed, scene, has_polyp, num_frames=6, height=48, width=64)


def decode(video: Path) -> tuple[np.ndarray, list[bool], int]:
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
        rate = int(container.streams.video[0].average_rate)
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    return pictures, [bool(frame.key_frame) for frame in frames], rate


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in files
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(folder, TINY)
    return folder


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("has_polyp", [True, False])
def test_every_scene_renders_with_and_without_polyp(scene: str, has_polyp: bool) -> None:
    clip = small_clip(3, scene, has_polyp)
    assert clip.frames.shape == (6, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.masks.shape == (6, 48, 64)
    assert clip.masks.dtype == bool
    assert (clip.scene, clip.has_polyp) == (scene, has_polyp)
    assert clip.masks.any() == has_polyp
    assert clip.frames.std() > 15, "a picture, not a plain area"


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (96, 200), (200, 196)])
def test_sizes_other_than_the_usual_render(height: int, width: int) -> None:
    clip = render_clip(5, has_polyp=True, num_frames=1, height=height, width=width)
    assert clip.frames.shape == (1, height, width, 3)
    assert clip.masks.any()


def test_a_seed_gives_the_same_clip_bit_for_bit() -> None:
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    one = small_clip(11)
    np.random.seed(1)  # noqa: NPY002
    other = small_clip(11)
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.instances, other.instances)
    assert (one.scene, one.has_polyp) == (other.scene, other.has_polyp)


def test_seeds_give_different_clips() -> None:
    one, other = (small_clip(seed, "colon", False) for seed in (1, 2))
    assert np.abs(one.frames.astype(int) - other.frames).mean() > 10


def test_seeds_draw_all_labels() -> None:
    clips = [render_clip(seed, num_frames=1, height=32, width=32) for seed in range(16)]
    assert {clip.scene for clip in clips} == set(SCENES)
    assert {clip.has_polyp for clip in clips} == {True, False}


def test_with_and_without_polyp_a_seed_shows_the_same_place() -> None:
    """Otherwise the camera's way or the organ's colours would tell."""
    ill, healthy = (small_clip(7, "stomach", has_polyp) for has_polyp in (True, False))
    far = cv2.dilate(ill.masks.any(0).astype(np.uint8), np.ones((17, 17))) == 0
    same, other = (clip.frames[0][far].astype(float).ravel() for clip in (ill, healthy))
    assert np.corrcoef(same, other)[0, 1] > 0.9


def test_polyps_are_well_seen() -> None:
    for seed in range(6):
        clip = render_clip(seed, has_polyp=True, num_frames=10, height=48, width=48)
        share = clip.masks.mean((1, 2))
        assert (share >= 0.02).mean() >= 0.5
        assert share.max() >= 0.04


def test_no_surface_swallows_more_light_than_it_gets() -> None:
    """A spot of this mottled polyp once had a negative reflectance, and pixels of no value."""
    with np.errstate(invalid="raise"):
        render_clip(3016458892868562697, "colon", True, 16, 96, 96)


def test_boxes_enclose_the_masks() -> None:
    clips = [small_clip(seed, has_polyp=True) for seed in (7, 8, 9)]
    assert max(clip.instances.max() for clip in clips) == 2, "two polyps in one of them"
    for clip in clips:
        for instances, boxes in zip(clip.instances, clip.boxes(), strict=True):
            numbers = np.unique(instances[instances > 0])
            assert boxes.shape == (len(numbers), 4)
            for number, (x1, y1, x2, y2) in zip(numbers, boxes, strict=True):
                inside = np.zeros_like(instances, bool)
                inside[y1 : y2 + 1, x1 : x2 + 1] = True
                mask = instances == number
                assert not mask[~inside].any()
                assert mask[y1].any() and mask[y2].any()
                assert mask[:, x1].any() and mask[:, x2].any()


def test_a_healthy_clip_has_no_boxes() -> None:
    assert [boxes.shape for boxes in small_clip(0, has_polyp=False).boxes()] == [(0, 4)] * 6


@pytest.mark.parametrize("scene", SCENES)
def test_frames_move_a_little_at_a_time(scene: str) -> None:
    clip = render_clip(4, scene, True, num_frames=24, height=64, width=64)
    smooth = np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in clip.frames]).astype(float)
    steps = np.abs(np.diff(smooth, axis=0)).mean((1, 2, 3))
    assert steps.min() > 0.1, "no frozen frame"
    assert steps.max() < 15, "no jump"
    assert np.abs(smooth[0] - smooth[-1]).mean() > 1.5 * steps.mean(), "it goes somewhere"
    overlap = (clip.masks[1:] & clip.masks[:-1]).sum((1, 2))
    assert (overlap > 0.5 * clip.masks[1:].sum((1, 2))).all()


def test_a_corpus_reads_back_as_it_was_rendered(corpus: Path) -> None:
    segments = read_manifest(corpus / "manifest.csv")
    assert [segment.path for segment in segments] == [f"videos/clip_{i:05d}.mp4" for i in range(3)]
    for index, segment in enumerate(segments):
        plan = plan_clip(TINY, index)
        assert (segment.start_frame, segment.stop_frame) == (0, 14)
        assert segment.group == plan.name
        assert segment.split == plan.split
        polyp = "polyp" if plan.has_polyp else "normal"
        organ = "upper gi" if plan.scene in ("esophagus", "stomach") else "lower gi"
        assert segment.labels == {"polyp": polyp, "scene": plan.scene, "organ": organ}
        check_annotations(segment)
        clip = render_clip(plan.seed, plan.scene, plan.has_polyp, 14, 48, 64)
        pictures, keys, rate = decode(segment.file)
        assert pictures.shape == (14, 48, 64, 3)
        assert np.abs(pictures.astype(int) - clip.frames).mean() < 6
        assert [number for number, key in enumerate(keys) if key] == [0, 12]
        assert rate == TINY.fps
        masks = sorted((corpus / "masks" / plan.name).glob("*.png"))
        assert len(masks) == 14
        for file, mask in zip(masks, clip.masks, strict=True):
            assert np.array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), mask * np.uint8(255))


def test_the_boxes_of_a_corpus_are_those_of_its_clips(corpus: Path) -> None:
    with (corpus / "boxes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    expected = [["path", "frame", "x1", "y1", "x2", "y2"]]
    for plan in (plan_clip(TINY, index) for index in range(3)):
        clip = render_clip(plan.seed, plan.scene, plan.has_polyp, 14, 48, 64)
        for frame, boxes in enumerate(clip.boxes()):
            path = f"videos/{plan.name}.mp4"
            expected += [[path, str(frame), *map(str, box)] for box in boxes.tolist()]
    assert rows == expected


def test_a_finished_corpus_is_left_alone(corpus: Path) -> None:
    before = contents(corpus)
    done: list[int] = []
    assert write_corpus(corpus, TINY, done.append) == corpus / "manifest.csv"
    assert contents(corpus) == before
    assert done == [1, 2, 3]


def test_a_larger_corpus_starts_with_the_same_clips(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "larger", replace(TINY, num_clips=4))
    larger = contents(tmp_path / "larger")
    for name, (data, _) in contents(corpus).items():
        if name.startswith(("videos/", "masks/")):
            assert larger[name][0] == data
    assert larger["manifest.csv"][0].startswith(contents(corpus)["manifest.csv"][0])


def test_an_interrupted_corpus_is_completed(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"

    class Stopped(Exception):
        pass

    def stop_after_two(done: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        write_corpus(folder, TINY, stop_after_two)
    assert not (folder / "manifest.csv").exists()
    whole = folder / "videos" / "clip_00001.mp4"
    whole.with_name("clip_00001.mp4.part").write_bytes(whole.read_bytes()[:500])
    whole.unlink()
    half = folder / "masks" / "clip_00002.part"
    half.mkdir(parents=True)
    (half / "0000.png").write_bytes(b"half")
    write_corpus(folder, TINY)
    ended = {name: data for name, (data, _) in contents(folder).items() if ".part" not in name}
    assert ended == {name: data for name, (data, _) in contents(corpus).items()}


def test_both_splits_are_balanced() -> None:
    spec = CorpusSpec(num_clips=96)
    plans = [plan_clip(spec, index) for index in range(96)]
    for split, each in (("train", 9), ("test", 3)):
        labels = [(plan.scene, plan.has_polyp) for plan in plans if plan.split == split]
        assert all(labels.count((s, p)) == each for s in SCENES for p in (True, False))
    assert len({plan.seed for plan in plans}) == 96
    assert {plan.split for plan in plans[:8]} == {"train", "test"}


def test_a_folder_of_another_spec_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed 0 instead of 1.*another folder"):
        write_corpus(corpus, replace(TINY, seed=1))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        write_corpus(tmp_path, TINY)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"can't be written.*another place"):
        write_corpus(tmp_path / "file" / "corpus", TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clips": 0}, "num_clips is 0; choose"),
        ({"num_frames": 0}, "num_frames is 0; a clip needs"),
        ({"height": 33}, "height is 33; choose an even number"),
        ({"width": 30}, "width is 30; choose an even number from 32"),
        ({"width": 4096}, "width is 4096"),
        ({"fps": 0}, "fps is 0; choose"),
        ({"seed": -1}, "seed is -1; give"),
        ({"test_share": 1.5}, "test_share is 1.5; choose"),
    ],
)
def test_a_spec_that_can_not_be_made_is_explained(
    tmp_path: Path, change: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_corpus(tmp_path / "corpus", replace(TINY, **change))
    assert not (tmp_path / "corpus").exists()


def test_an_unknown_scene_is_explained() -> None:
    with pytest.raises(ConfigError, match="no scene 'lung'; choose one of colon"):
        render_clip(0, "lung")


def test_equal_frames_are_encoded_to_equal_bytes(tmp_path):
    clip = render_clip(seed=5, scene="colon", has_polyp=False, num_frames=16, height=96, width=96)
    for number in range(20):  # with libx264's own settings, CPUs with AVX-512 gave four kinds
        _write_video(tmp_path / f"{number}.mp4", clip, fps=25)
    assert len({file.read_bytes() for file in tmp_path.glob("*.mp4")}) == 1


def test_several_processes_write_the_same_corpus(tmp_path):
    spec = CorpusSpec(num_clips=4, num_frames=4, height=32, width=32)
    one = write_corpus(tmp_path / "one", spec)
    two = write_corpus(tmp_path / "two", spec, workers=2)
    assert one.read_text() == two.read_text()
    for video in (tmp_path / "one" / "videos").iterdir():
        assert video.read_bytes() == (tmp_path / "two" / "videos" / video.name).read_bytes()
