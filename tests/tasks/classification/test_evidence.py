"""The evidential head in the classification task: any backbone, fused clips, what it leaves."""

import csv
import json

import pytest
import torch

from endofm.data.labelled.samples import ClipSpec, LabelledBatch, LabelledConfig
from endofm.data.manifests.manifest import Segment
from endofm.errors import ConfigError
from endofm.models.registry import create_model
from endofm.report.cases import result_sections
from endofm.report.html import Picture
from endofm.report.result_folders import read_result
from endofm.tasks.classification.task import RowPrediction, build_classification, samples_of
from endofm.tasks.finetuning.contract import NO_INTERVALS, Prediction, TaskConfig
from finetune.train import finetune
from tests.labelled import small_finetune, write_labelled

BACKBONES = {
    "timesformer_tiny": dict(depth=1, patch_pixels=32, image_pixels=64, width=24, num_heads=2),
    "rpa3d": dict(widths=(8,), reduction=2),
    "stfm_test_resnet": dict(width=8, temporal_widths=(4,), lstm_width=8),
}
HEADS = ["evidential", "evidential_squared", "evidential_log", "evidential_digamma"]


def task(name="timesformer_tiny", head="evidential", classes=("a", "b", "c")):
    torch.manual_seed(0)
    clip_spec = ClipSpec("classification", classes, LabelledConfig(label="x"), 2, 64)
    backbone = create_model(name, num_frames=2, **BACKBONES[name])
    return build_classification(backbone, clip_spec, TaskConfig(head=head))


def batch_of(frames, views, tmp_path):
    """A row for each of `views`, which says how many clips it is shown by."""
    segments = [Segment(tmp_path, f"{n}", 0, 2, f"g{n}") for n in range(len(views))]
    return LabelledBatch(
        frames, torch.eye(3, 4).repeat(len(frames), 1, 1), [0] * len(views), segments, [], [], [],
        list(views), [s.name for s in segments], list(range(len(views))),
    )  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_learns_by_every_evidential_loss(name, head):
    made = task(name, head)
    made.begin(epoch=3)
    made.network.train()
    output = made.network(torch.randn(2, 3, 2, 64, 64), torch.tensor([0, 2]))
    output.total.backward()
    assert torch.isfinite(output.total) and made.network.head.linear.weight.grad.any()
    expected = made.network.evidence(output.logits, torch.tensor([0, 2]))
    assert torch.equal(output.total, expected)
    assert made.network.evidence.divergence_weight == pytest.approx(0.3)


def test_clips_of_a_row_are_fused_by_summing_alphas(tmp_path):
    made = task()
    made.network.eval()
    made.network.head.linear.weight.data.mul_(40)  # clips of different opinions
    frames = torch.randint(0, 256, (5, 2, 64, 64, 3), dtype=torch.uint8)
    batch = batch_of(frames, (3, 2), tmp_path)
    (first,), (second,) = made.predict(batch)
    alphas = made.network.evidence.alphas(made.network.logits(made.clip(batch)))
    assert first.alphas == pytest.approx(alphas[:3].sum(dim=0).tolist(), rel=1e-5)
    assert second.alphas == pytest.approx(alphas[3:].sum(dim=0).tolist(), rel=1e-5)
    total = sum(first.alphas)
    assert first.probabilities == pytest.approx([one / total for one in first.alphas])


def row(path, truth, alphas, group=None):
    total = sum(alphas)
    told = tuple(one / total for one in alphas)
    return RowPrediction(path, path, group or path, 0, truth, told, tuple(alphas))


def test_rows_of_a_group_are_fused_too_and_uncertainty_follows():
    """(9, 1) and twice (1, 1.2): (11, 3.4), and u = 2 x 0.8 / 14.4."""
    made = task(classes=("a", "b"))
    rows = [row("1", 0, (9, 1), "p"), row("2", 0, (1, 1.2), "p"), row("3", 0, (1, 1.2), "p")]
    (sample,), unit = samples_of(rows)
    assert unit == "groups" and sample.alphas == pytest.approx((11, 3.4))
    assert sample.probabilities == pytest.approx((11 / 14.4, 3.4 / 14.4))
    assert made.uncertainty(sample) == pytest.approx(1.6 / 14.4)


def test_figures_tell_what_rejecting_by_uncertainty_is_worth():
    made = task(classes=("a", "b"))
    predictions = [
        Prediction(0, row("sure", 0, (9, 1))),
        Prediction(1, row("surer", 1, (1, 19))),
        Prediction(2, row("unsure", 1, (1.1, 1))),
    ]
    figures = made.score(predictions, NO_INTERVALS)
    assert figures.values["error_auc"].value == 1.0
    curve = {one["rejected"]: one["accuracy"] for one in figures.details["rejects"]["curve"]}
    assert curve[0.0] == pytest.approx(2 / 3) and curve[0.95] == 1.0
    right = made.score(predictions[:2], NO_INTERVALS)
    assert right.values["error_auc"].reason == "every sample is told rightly"
    plain = task(head="default", classes=("a", "b"))
    softmax = plain.score(
        [Prediction(0, RowPrediction("1", "1", "1", 0, 0, (0.7, 0.3)))], NO_INTERVALS
    )
    assert softmax.details["rejects"]["by"] == "1 - the highest probability"
    assert "error_auc" not in softmax.values


def test_evidence_is_for_one_label_and_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="classification with one label, not multi_label"):
        TaskConfig(kind="multi_label", head="evidential")
    with pytest.raises(ConfigError, match=r"is trained; take tuning\.method head"):
        small_finetune(tmp_path / "m.csv", tmp_path / "out", head="evidential_log", method="knn")


def test_the_program_leaves_uncertainties_a_curve_and_its_figure(tmp_path):
    manifest = write_labelled(tmp_path / "corpus", 16)
    out = finetune(
        small_finetune(manifest, tmp_path / "run", head="evidential", test_views=(2, 1), epochs=1)
    )
    told = json.loads((out / "seed_0/metrics.json").read_text(encoding="utf-8"))
    assert len(told["details"]["rejects"]["curve"]) == 20
    assert {"error_auc", "reject_accuracy", "calibration_error"} <= told["metrics"].keys()
    table = list(csv.DictReader((out / "seed_0/samples.csv").open(encoding="utf-8")))
    assert all(0 < float(one["uncertainty"]) <= 0.5 for one in table)  # of two clips
    (result,) = read_result(out).seeds
    pictures = [one for one in result_sections(result) if isinstance(one, Picture)]
    (figure,) = [one for one in pictures if "share is rejected" in one.caption]
    assert figure.image.startswith("<svg") and "accuracy of the rest" in figure.image
