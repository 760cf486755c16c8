import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from endofm import hub
from endofm.errors import OutputError, RunError
from endofm.models.timesformer import TimeSformer, TimeSformerConfig
from endofm.report.curves import loss_curves
from endofm.report.html import Bold, Heading, Listing, Picture, Table, Text, write_page
from endofm.report.page import run_page, untrained_twin

VOID = {"meta", "img", "br", "link"}
NASTY = "a<b>/\"clip\" & 'co'.mp4"


class Reader(HTMLParser):
    """Elements, attributes and words of a page; fails where tags don't match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read_page(path):
    return Reader(path.read_text(encoding="utf-8"))


def all_sections(text):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return [
        Heading(text),
        Text(text),
        Picture(text, pixels),
        Picture(text, loss_curves({text: [{"step": 1, "loss": 2.0}], "two": []})),
        Table(text, [text, text], [[text, Bold(text)]], text),
        Listing(text, text),
    ]


def make_run(folder, num_rows=3, health=True, rank=9.0):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run:\n  seed: 41\n", encoding="utf-8")
    watch = (
        f', "teacher_entropy": 0.6, "marginal_entropy": 0.9, "feature_std": 0.7, "rankme": {rank}'
    )
    lines = [
        f'{{"step": {10 * n}, "loss": {5 - n}, "broken_clips": 0{watch if health else ""}}}\n'
        for n in range(1, num_rows + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def small_model():
    torch.manual_seed(3)
    return TimeSformer(
        TimeSformerConfig(width=16, depth=1, num_heads=2, patch_pixels=8, image_pixels=32)
    )


def test_a_page_is_whole_html_that_fetches_nothing(tmp_path):
    page = read_page(write_page(tmp_path / "page.html", NASTY, all_sections(NASTY)))
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("data:", "#")), (name, value)
    assert not {"script", "link", "iframe", "base"} & set(page.tags)
    raw = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", raw)


def test_names_are_shown_as_they_are_wherever_they_stand(tmp_path):
    page = read_page(write_page(tmp_path / "page.html", NASTY, all_sections(NASTY)))
    assert "b" not in page.tags and dict(page.attributes)["alt"] == NASTY
    # title and h1, heading, text, 2 captions, curve, 5 in the table, note, 2 in the listing
    assert page.text.count(NASTY) >= 14


def test_a_picture_comes_back_from_the_page(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:, 0] = 250
    page = read_page(write_page(tmp_path / "page.html", "page", [Picture("red", pixels)]))
    source = dict(page.attributes)["src"]
    data = np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8)
    shown = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(shown.astype(int) - pixels)[:, [*range(12), *range(20, 32)]].max() < 12


def test_best_cells_are_bold_and_others_are_not(tmp_path):
    table = Table("t", ["", "x"], [["one", Bold("91.0")], ["two", "80.0"]])
    raw = write_page(tmp_path / "page.html", "page", [table]).read_text(encoding="utf-8")
    assert "<td><strong>91.0</strong></td>" in raw and "<td>80.0</td>" in raw


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_an_older_page_stays_when_the_new_one_can_not_be_written(tmp_path, monkeypatch):
    path = write_page(tmp_path / "page.html", "old", [])
    (tmp_path / "page.html.part").mkdir()  # of a program that was killed
    write_page(path, "newer", [])
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OutputError, match=r"page.html can't be written .*; make room"):
        write_page(path, "new", [])
    assert "newer" in read_page(path).text


def test_a_run_page_tells_the_last_numbers_and_the_configuration(tmp_path):
    page = read_page(run_page(make_run(tmp_path / "run")))
    assert "seed: 41" in page.text and "At step 30" in page.text and "2.0000" in page.text
    assert "effective rank 9.000" in page.text and "No sign of collapse." in page.text
    assert "svg" in page.tags and "img" not in page.tags
    assert "exported no model yet" in page.text


def test_a_collapsed_run_is_called_so(tmp_path):
    page = read_page(run_page(make_run(tmp_path / "run", rank=1.1)))
    assert "has collapsed or is about to" in page.text and "No sign" not in page.text


def test_collapse_that_was_not_watched_is_not_denied(tmp_path):
    page = read_page(run_page(make_run(tmp_path / "run", health=False)))
    assert "Signs of collapse were not measured" in page.text and "No sign" not in page.text


def test_broken_clips_are_listed_with_their_reasons(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "quarantine.csv").write_text('clip,reason\na<b>.mp4,"ends early, copy it"\n')
    page = read_page(run_page(run))
    assert "1 clip was left out" in page.text and "a<b>.mp4 ends early, copy it" in page.text


def test_a_run_of_no_steps_yet_has_a_page(tmp_path):
    assert "has not logged a step" in read_page(run_page(make_run(tmp_path / "run", 0))).text


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run's folder"):
        run_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_clips_handed_in_are_shown_beside_an_untrained_model(tmp_path):
    run, model = make_run(tmp_path / "run"), small_model()
    hub.save(run / "model", model, model.input_spec, {})
    clips = np.random.default_rng(0).integers(0, 256, (1, 2, 32, 32, 3), np.uint8)
    page = read_page(run_page(run, clips, ["a clip"]))
    assert page.tags.count("img") == 1 and "has exported its model" in page.text


def test_the_untrained_twin_differs_in_weights_only_and_takes_no_random_numbers():
    model = small_model()
    before = torch.get_rng_state()
    twin, again = untrained_twin(model), untrained_twin(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert twin.config == model.config and twin.input_spec == model.input_spec
    weight = "patch_embed.proj.weight"
    assert not torch.equal(twin.state_dict()[weight], model.state_dict()[weight])
    assert torch.equal(twin.state_dict()[weight], again.state_dict()[weight])
