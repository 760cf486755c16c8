import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import endofm
from endofm.data.manifests.manifest import Segment
from endofm.data.video import open_video, pyav
from endofm.data.videos.clips import center_square
from endofm.errors import ConfigError, RunError, VideoError
from endofm.models.input import InputSpec
from endofm.models.outputs import class_attention, compute, patch_tokens
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from endofm.tasks.embedding.features import embed_clips, load_clips
from endofm.tasks.embedding.videos import Embedding, fingerprint
from tests.make import numbered_frame, write_frames, write_video

FRAMES, PIXELS = 4, 32


def small_model(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"width": 16, "depth": 2, "num_heads": 2, "patch_pixels": 8, "image_pixels": PIXELS}
    model = TimeSformer(TimeSformerConfig(num_frames=FRAMES, **settings, **changes)).eval()
    model.input_spec = InputSpec(num_frames=FRAMES, pixels=PIXELS)
    for block in model.blocks:
        torch.nn.init.normal_(block.temporal_fc.weight, std=0.2)
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
    return model


def square(clip):
    return center_square(clip, PIXELS)


def frames(count, size=(48, 64)):
    return np.stack([numbered_frame(index, size) for index in range(count)])


def test_features_are_those_of_clips_cut_by_hand(tmp_path):
    write_video(tmp_path / "v.mp4", 60, size=(48, 64), fps=10, b_frames=2)
    model = small_model()
    result = endofm.embed(model, tmp_path / "v.mp4", clip_seconds=2, batch_size=2)
    segments = [Segment(tmp_path, "v.mp4", start, start + 20) for start in (0, 20, 40)]
    expected = embed_clips(model, load_clips(segments, FRAMES, PIXELS))
    np.testing.assert_allclose(result.features, expected, atol=1e-6)
    assert result.features.dtype == np.float32 and len(result) == 3
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    np.testing.assert_allclose(result.start_seconds, [0, 2, 4], atol=1e-9)
    np.testing.assert_allclose(result.stop_seconds, [2, 4, 6], atol=1e-9)


def test_tokens_and_attention_are_the_models_own():
    model, pictures = small_model(), frames(8)
    result = endofm.embed(model, pictures, tokens=True, attention=True)
    plain = endofm.embed(model, pictures)
    clips = np.stack([pictures[:4], pictures[4:]])
    video = model.input_spec.normalize(torch.from_numpy(np.stack([*map(square, clips)])))
    with torch.no_grad():
        tokens, maps = patch_tokens(model, video), class_attention(model, video)
    assert result.tokens.shape == (2, FRAMES, 4, 4, 16)
    assert result.attention.shape == (2, FRAMES, 4, 4)
    np.testing.assert_allclose(result.tokens, tokens, atol=1e-5)
    np.testing.assert_allclose(result.attention, maps, atol=1e-5)
    np.testing.assert_allclose(result.features, plain.features, atol=1e-6)
    assert plain.tokens is None and plain.attention is None


def test_every_kind_of_source_gives_the_same_features(tmp_path):
    model, pictures = small_model(), frames(22)
    folder = write_frames(tmp_path / "frames", pictures, "frame_{}.png")
    files = sorted(folder.iterdir(), key=lambda file: int(file.stem.split("_")[1]))
    video = write_video(tmp_path / "v.mkv", 22, (48, 64), "ffv1", "bgr0", fps=10)
    options = {"clip_seconds": 1.0, "step_seconds": 0.5}
    expected = endofm.embed(model, video, **options)
    assert len(expected) == 4
    for source in (pictures, (one for one in pictures), list(pictures), folder, files):
        result = endofm.embed(model, source, source_fps=10, **options)
        np.testing.assert_allclose(result.features, expected.features, atol=1e-6)
        np.testing.assert_allclose(result.start_seconds, expected.start_seconds, atol=1e-3)
        np.testing.assert_allclose(result.stop_seconds, expected.stop_seconds, atol=1e-3)


def test_without_a_rate_a_clip_is_frames_in_a_row_and_times_are_unknown(tmp_path):
    model, pictures = small_model(), frames(8)
    result = endofm.embed(model, pictures)
    expected = compute(model, np.stack([square(pictures[:4]), square(pictures[4:])]))
    np.testing.assert_allclose(result.features, expected.features, atol=1e-6)
    assert np.isnan(result.start_seconds).all() and np.isnan(result.stop_seconds).all()
    with pytest.raises(VideoError, match=r"source_fps"):
        endofm.embed(model, pictures, clip_seconds=2)


def test_a_video_shorter_than_a_clip_repeats_its_last_frame(tmp_path):
    model = small_model()
    path = write_video(tmp_path / "v.mkv", 2, (48, 64), "ffv1", "bgr0", fps=10)
    result = endofm.embed(model, path)
    last = square(frames(2))[[1, 1, 1, 1]]
    np.testing.assert_allclose(result.features, compute(model, last[None]).features, atol=1e-6)
    assert result.stop_seconds == pytest.approx([0.2])


def test_grey_and_rgba_frames_are_shown_as_rgb():
    model = small_model()
    grey = np.random.default_rng(0).integers(0, 256, (4, 40, 40), np.uint8)
    rgb = np.repeat(grey[..., None], 3, -1)
    rgba = np.concatenate([rgb, np.zeros_like(rgb[..., :1])], -1)
    expected = endofm.embed(model, rgb).features
    for source in (grey, grey[..., None], rgba):
        assert np.array_equal(endofm.embed(model, source).features, expected)


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), VideoError, "Frame 0 is float32"),
        (np.zeros((4, 8, 8, 2), np.uint8), VideoError, r"\[8, 8, 2\]"),
        (np.zeros((8, 8, 3), np.uint8), ConfigError, r"not \[8, 8, 3\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], VideoError, "9x8"),
        ([], VideoError, "no frames"),
        (7, ConfigError, "not a int"),
        ("absent.mp4", VideoError, "absent.mp4 does not exist"),
    ],
)
def test_what_is_no_source_is_refused(source, error, told):
    with pytest.raises(error, match=told):
        endofm.embed(small_model(), source)


def test_options_that_can_not_be_are_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4", 5)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        endofm.embed(small_model(), path, batch_size=0)
    with pytest.raises(ConfigError, match=r"30 frames a second.*source_fps"):
        endofm.embed(small_model(), path, source_fps=10)


def test_a_model_of_one_channel_is_refused_before_a_frame_is_decoded():
    def untouched():
        raise AssertionError("a frame was read")
        yield

    with pytest.raises(ConfigError, match="1 channel, but video is read as RGB"):
        endofm.embed(small_model(in_channels=1), untouched())


def test_another_kind_of_network_is_refused():
    with pytest.raises(ConfigError, match="A Linear gives no features of clips"):
        endofm.embed(torch.nn.Linear(3, 3), frames(4))


def test_each_frame_is_decoded_once_and_only_wanted_ones_are_converted(tmp_path, monkeypatch):
    monkeypatch.setattr(pyav, "_SHORT_FRAMES", 20)
    path = write_video(tmp_path / "v.mp4", 300, (48, 64), fps=10, gop=300)
    counts = {"decoded": 0, "converted": 0}
    decoded, rgb = pyav.PyAVReader._decoded, pyav.PyAVReader._rgb

    def counted(self, packets):
        for frame in decoded(self, packets):
            counts["decoded"] += 1
            yield frame

    def converted(self, frame, size):
        counts["converted"] += 1
        return rgb(self, frame, size)

    monkeypatch.setattr(pyav.PyAVReader, "_decoded", counted)
    monkeypatch.setattr(pyav.PyAVReader, "_rgb", converted)
    result = endofm.embed(small_model(), path, clip_seconds=2, step_seconds=1)
    assert len(result) == 29
    assert counts["converted"] == 30 * 2  # overlapping clips share their frames
    assert counts["decoded"] <= 300 + pyav._PROBED_FRAMES


@pytest.mark.parametrize("as_long", [True, False])
@pytest.mark.parametrize(
    "options", [{"b_frames": 2}, {"rotation": 90}, {"times": [i * i for i in range(30)]}]
)
def test_a_stream_gives_the_frames_that_a_reader_gives(tmp_path, monkeypatch, as_long, options):
    if as_long:
        monkeypatch.setattr(pyav, "_SHORT_FRAMES", 3)
    path = write_video(tmp_path / "v.mp4", 30, **options)
    with open_video(path) as video:
        expected = video.read(range(30))
        assert np.array_equal(np.stack([f for _, f in video.stream(range(30))]), expected)
        some = [0, 7, 8, 29]
        assert [index for index, _ in video.stream(some)] == some
        assert np.array_equal(np.stack([f for _, f in video.stream(some)]), expected[some])
        with pytest.raises(VideoError, match="rising"):
            list(video.stream([3, 2]))
        with pytest.raises(VideoError, match="no frame 30"):
            list(video.stream([30]))


def test_times_are_those_of_the_container(tmp_path):
    path = write_video(tmp_path / "v.mp4", 20, (48, 64), fps=10, times=[2 * i for i in range(20)])
    result = endofm.embed(small_model(), path, clip_seconds=1)
    np.testing.assert_allclose(result.start_seconds, [0, 1, 2, 3], atol=1e-6)
    assert result.stop_seconds[-1] == pytest.approx(4.0)


def test_memory_of_a_gpu_that_is_too_small_gets_a_hint(monkeypatch):
    model = small_model()

    def full(video):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(RunError, match=r"for 6 clips of 4 frames of 32 x 32 px.*--batch-size 3"):
        endofm.embed(model, frames(24))
    with pytest.raises(RunError, match=r"for 1 clip of .* bfloat16 or the CPU"):
        endofm.embed(model, frames(24), batch_size=1)


def test_a_model_in_training_is_left_so_but_embeds_as_in_evaluation():
    model = small_model(drop_path=0.9)
    expected = endofm.embed(model, frames(8)).features
    model.train()
    assert np.array_equal(endofm.embed(model, frames(8)).features, expected) and model.training


def test_a_model_in_bfloat16_stays_so():
    model = small_model()
    expected = endofm.embed(model, frames(8)).features
    rounded = endofm.embed(model.to(torch.bfloat16), frames(8)).features
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - expected).max() < 0.1


def test_progress_is_told():
    told = []
    endofm.embed(small_model(), frames(12), batch_size=2, progress=lambda *pair: told.append(pair))
    assert told == [(2, None), (3, None)]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_gives_back_what_was_saved(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    model = small_model()
    for options in ({}, {"tokens": True, "attention": True}):
        made = endofm.embed(model, frames(12), source_fps=4, clip_seconds=1, **options)
        made = Embedding(**(vars(made) | {"settings": {"model": "abc", "step_seconds": None}}))
        made.save(tmp_path / f"deep/er/v{suffix}")
        read = endofm.Embedding.load(tmp_path / f"deep/er/v{suffix}")
        assert read.settings == made.settings
        for name in ("features", "start_seconds", "stop_seconds", "tokens", "attention"):
            one, other = getattr(made, name), getattr(read, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype and np.array_equal(one, other)
    assert [file.name for file in (tmp_path / "deep/er").iterdir()] == [f"v{suffix}"]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_that_is_cut_off_or_absent_is_refused(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"v{suffix}"
    with pytest.raises(RunError, match="no whole file"):
        Embedding.load(path)
    endofm.embed(small_model(), frames(4)).save(path)
    for data in (path.read_bytes()[:-20], b"", b"not a file of ours"):
        path.write_bytes(data)
        with pytest.raises(RunError, match="no whole file"):
            Embedding.load(path)


def test_parquet_without_pyarrow_and_other_endings_are_refused(tmp_path, monkeypatch):
    made = endofm.embed(small_model(), frames(4))
    with pytest.raises(ConfigError, match=r"neither in \.npz nor in \.parquet"):
        made.save(tmp_path / "v.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        made.save(tmp_path / "v.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_tells_models_apart():
    assert fingerprint(small_model()) == fingerprint(small_model())
    other = small_model()
    other.input_spec = InputSpec(num_frames=FRAMES, pixels=64)
    names = {fingerprint(one) for one in (small_model(), small_model(seed=1), other)}
    assert len(names) == 3


def test_importing_the_library_loads_no_decoder():
    code = "import sys, endofm; assert not {'av', 'decord', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
