import pytest
import torch
import yaml

from endofm import hub
from endofm.models.timesformer import TimeSformer, TimeSformerConfig


def card(folder, **provenance):
    """Front matter and text of the card that a folder is saved with."""
    torch.manual_seed(0)
    model = TimeSformer(
        TimeSformerConfig(width=16, depth=1, num_heads=2, patch_pixels=8, image_pixels=32)
    )
    hub.save(folder / "model", model, model.input_spec, provenance)
    _, front, text = (folder / "model/README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_tells_the_hub_what_the_model_is(tmp_path):
    front, text = card(tmp_path, **{"trained by": "endofm 0.1.0"})
    assert front["library_name"] == "endofm" and front["pipeline_tag"] == "feature-extraction"
    assert "self-supervised" in front["tags"] and "license" not in front
    assert 'endofm.load("this/folder")' in text and "name on the Hugging Face Hub" in text


def test_only_what_our_pretraining_made_is_called_its_teacher(tmp_path):
    _, ours = card(tmp_path, **{"trained by": "endofm 0.1.0, `python -m pretrain`"})
    front, theirs = card(tmp_path, source="endo_fm.pth", license="MIT")
    assert "self-supervised pretraining run" in ours
    assert "self-supervised" not in theirs and "self-supervised" not in front["tags"]
    assert "weights from the source" in theirs and "| source | endo_fm.pth |" in theirs


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-NC-SA-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ('research: "only"', {"license": "other", "license_name": 'research: "only"'}),
    ],
)
def test_a_license_is_named_as_the_hub_knows_it(tmp_path, license, told):
    front, _ = card(tmp_path, license=license)
    assert {key: value for key, value in front.items() if key.startswith("license")} == told


def test_provenance_of_any_kind_stays_in_its_row(tmp_path):
    _, text = card(tmp_path, source="a|b\n# c")
    assert "| source | a\\|b # c |" in text
