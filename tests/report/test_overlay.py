import av
import numpy as np
import pytest
import torch

from endofm.errors import ConfigError, VideoError
from endofm.models.input import InputSpec
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from endofm.report import overlay
from endofm.report.features import PrincipalColors
from endofm.report.overlay import LINE, PANEL, draw_video
from tests.make import write_frames, write_video
from tests.report.test_features import attend_to_brightness


def small_model():
    torch.manual_seed(0)
    config = TimeSformerConfig(
        width=16, depth=1, num_heads=2, patch_pixels=8, image_pixels=32, num_frames=2
    )
    model = TimeSformer(config)
    model.input_spec = InputSpec(num_frames=2, pixels=32)
    return model


def write_spots(folder, places):
    """Dark pictures of 4 x 4 patches with one bright patch each."""
    frames = np.full((len(places), 32, 32, 3), 40, np.uint8)
    for frame, (row, column) in zip(frames, places, strict=True):
        frame[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    return write_frames(folder, frames)


def read_panels(path):
    """Frames, attention and features [T, PANEL, PANEL, 3] of a film."""
    with av.open(str(path)) as film:
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)])
    assert pictures.shape[1:] == (LINE + PANEL, 3 * PANEL, 3)
    return [pictures[:, LINE:, n * PANEL : (n + 1) * PANEL] for n in range(3)]


def brightest_patch(picture):
    patches = picture.astype(float).mean(-1).reshape(4, PANEL // 4, 4, PANEL // 4).mean((1, 3))
    return np.unravel_index(patches.argmax(), patches.shape)


def test_frame_and_attention_show_the_spot_where_it_is_in_each_frame(tmp_path):
    places = [(0, 0), (1, 2), (3, 3), (2, 1), (0, 3)]
    folder = write_spots(tmp_path / "frames", places)
    draw_video(tmp_path / "x.mp4", attend_to_brightness(small_model()), folder)
    frames, warm, _ = read_panels(tmp_path / "x.mp4")
    assert [brightest_patch(picture) for picture in frames] == places
    assert [brightest_patch(picture) for picture in warm] == places


def test_the_same_patch_has_the_same_color_all_along(tmp_path):
    places = [(1, 1)] * 4 + [(2, 2)] * 4 + [(1, 1)] * 4
    folder = write_spots(tmp_path / "frames", places)
    draw_video(tmp_path / "x.mp4", attend_to_brightness(small_model()), folder, batch_size=1)
    _, _, colors = (panel.astype(int) for panel in read_panels(tmp_path / "x.mp4"))
    assert np.abs(colors[0] - colors[-1]).mean() < 3
    assert np.abs(colors[0] - colors[5]).mean() > 3


def test_colors_are_fitted_once_on_a_sample_of_a_long_video(tmp_path, monkeypatch):
    fitted, fit = [], PrincipalColors.fit.__func__
    monkeypatch.setattr(
        PrincipalColors,
        "fit",
        classmethod(
            lambda cls, tokens, shown: fitted.append(len(tokens)) or fit(cls, tokens, shown)
        ),
    )
    path = write_video(tmp_path / "v.mp4", 120, (48, 64), fps=10)
    told = []
    draw_video(
        tmp_path / "x.mp4", small_model(), path, clip_seconds=1, progress=lambda *p: told.append(p)
    )
    assert fitted == [overlay.SAMPLE_CLIPS] and told[-1] == (12, 12)
    with av.open(str(tmp_path / "x.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 24


def test_a_film_of_a_broken_video_is_not_left_half_written(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", 60, (48, 64), fps=10)

    def broken(*row):
        raise VideoError("broken on the way.")

    monkeypatch.setattr(overlay, "_row", broken)
    with pytest.raises(VideoError, match="on the way"):
        draw_video(tmp_path / "out/x.mp4", small_model(), path)
    assert list((tmp_path / "out").iterdir()) == []


def test_frames_that_can_be_read_only_once_are_refused(tmp_path):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ConfigError, match="give a file"):
        draw_video(tmp_path / "x.mp4", small_model(), iter(frames))
