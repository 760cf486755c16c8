from pathlib import Path

import pytest

from endofm import create_model, hub
from endofm.data.manifest import Segment
from endofm.errors import ManifestError
from endofm.models.input import InputSpec
from pretrain.retrieval import Retrieval, cut, retrieval_scores
from tests.small import write_corpus


def test_a_clip_is_cut_end_to_end():
    pieces = cut(Segment(Path(), "a.mp4", 10, 20), 3)
    assert [(p.start_frame, p.stop_frame) for p in pieces] == [(10, 13), (13, 16), (16, 20)]
    assert {p.group for p in pieces} == {"a.mp4[10:20]"}
    for short in (Segment(Path(), "a.mp4", 0, 2), Segment(Path(), "a.mp4")):
        with pytest.raises(ManifestError, match="can't be cut into 3 pieces"):
            cut(short, 3)


def test_retrieval_scores_every_model_beside_its_baselines(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", num_clips=4)
    model = create_model("timesformer_tiny", depth=1, patch_pixels=8, image_pixels=16)
    hub.save(tmp_path / "model", model, InputSpec(num_frames=2, pixels=16), {})
    scores = retrieval_scores(Retrieval((tmp_path / "model",) * 2, manifest))
    assert len(scores["pretrained"]) == len(scores["untrained"]) == 2
    assert scores["chance"] == [pytest.approx(2 / 11)]
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
