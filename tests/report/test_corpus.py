import json

import pytest

from endofm.cli import main
from endofm.data.leakage import Leak, write_leaks
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.data.manifests.quarantine import Quarantined, quarantine_file, write_quarantine
from endofm.errors import CorpusError
from endofm.report.corpus import card_of
from tests.make import numbered_frame, write_frames, write_video


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "cvc"
    write_video(folder / "a.mp4", 36, (48, 64), fps=10)
    write_video(folder / "b.mp4", 36, (48, 64), fps=10, first=50)
    write_frames(folder / "f", (numbered_frame(i) for i in range(3)))
    segments = [
        Segment(folder, "a.mp4", 0, 36, "p1", "train", {"polyp": "polyp;ulcer"}),
        Segment(folder, "b.mp4", 0, 36, "p1", "test", {"polyp": "normal"}),
        Segment(folder, "f", 0, 3, "p2", "test", {"polyp": ""}),
        Segment(folder, "gone.mp4", 0, 3, "p3", "test", {"polyp": "normal"}),
    ]
    write_manifest(folder / "clips.csv", segments)
    return folder / "clips.csv"


def page_of(manifest, tmp_path):
    out = tmp_path / "page.html"
    words = [str(manifest), "--out", str(out), "--cache", str(tmp_path / "cache")]
    main(["corpus", "report", *words, "--workers", "1"])
    return out.read_text(encoding="utf-8")


def test_the_page_counts_clips_hours_splits_and_labels(manifest, tmp_path):
    page = page_of(manifest, tmp_path)
    row = "<td>4</td><td>4</td><td>3</td><td>75</td><td>0.00</td>"
    assert row in page and "Nothing tells the rate of 1 clips" in page
    assert "64 x 48" in page and "128 x 96" in page
    assert '<th scope="row">ulcer</th><td>1</td><td>25.0%</td>' in page
    assert "data:image/webp" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_page_warns(manifest, tmp_path):
    page = page_of(manifest, tmp_path)
    for words in (
        "1 clips can&#39;t be decoded",
        "1 groups lie in more than one split",
        "1 of 4 clips have no label_polyp",
        "licence not known",
    ):
        assert words in page, words
    write_quarantine(quarantine_file(manifest), [Quarantined("gone.mp4[0:3]", "broken", "x")])
    write_leaks(manifest, [Leak("a.mp4", "z.mp4", "/other.csv", "near", 0.9)])
    page = page_of(manifest, tmp_path)
    assert "1 clips in quarantine: broken" in page and "1 known leaks, in clips.leaks.csv" in page


def test_terms_come_from_the_card_of_what_was_prepared(manifest, tmp_path):
    note = manifest.parent / "corpus.json"
    note.write_text(json.dumps({"dataset": "cvc_clinicdb"}))
    page = page_of(manifest, tmp_path)
    assert "CVC-ClinicDB" in page and "research and education" in page and "colonoscopy" in page
    note.write_text(json.dumps({"dataset": "nowhere"}))
    with pytest.raises(CorpusError, match="There is no card"):
        card_of(manifest)
    note.write_text("{")
    with pytest.raises(CorpusError, match=r"corpus\.json is damaged"):
        card_of(manifest)
