import sys
from pathlib import Path

import pytest

from endofm import create_model, hub
from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError
from endofm.models.input import InputSpec
from pretrain.retrieval import Retrieval, cut, main, retrieval_scores
from tests.small import write_corpus


def test_a_clip_is_cut_end_to_end():
    pieces = cut(Segment(Path(), "a.mp4", 10, 20), 3)
    assert [(p.start_frame, p.stop_frame) for p in pieces] == [(10, 13), (13, 16), (16, 20)]
    assert {p.group for p in pieces} == {"a.mp4[10:20]"}
    for short in (Segment(Path(), "a.mp4", 0, 2), Segment(Path(), "a.mp4")):
        with pytest.raises(ManifestError, match="can't be cut into 3 pieces"):
            cut(short, 3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--pieces", "0", "model"], "--pieces is 0"),
        (["--pieces", "1", "model"], "--pieces is 1"),
        (["--frames", "0", "model"], "--frames is 0"),
        ([], "No model is given"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["retrieval", "--manifest", "clips.csv", *given])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1 and f"error: {told}" in said


def test_retrieval_scores_every_model_beside_its_baselines(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", num_clips=4)
    model = create_model("timesformer_tiny", depth=1, patch_pixels=8, image_pixels=16)
    hub.save(tmp_path / "model", model, InputSpec(num_frames=2, pixels=16), {})
    scores = retrieval_scores(Retrieval((tmp_path / "model",) * 2, manifest))
    assert len(scores["pretrained"]) == len(scores["untrained"]) == 2
    assert scores["chance"] == [pytest.approx(2 / 11)]
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
