import numpy as np
import pytest
import torch
from torch.nn import functional as F

from endofm.data.labelled.samples import ClipSpec, LabelledConfig
from endofm.errors import ConfigError, RunError
from endofm.models.registry import create_model
from endofm.tasks.classification.task import (
    RowPrediction,
    balanced_weights,
    build_classification,
    samples_of,
)
from endofm.tasks.finetuning.contract import NO_INTERVALS, Prediction, TaskConfig

BACKBONE = dict(depth=1, patch_pixels=16, image_pixels=32, num_frames=2, width=24, num_heads=2)


def task(classes=("a", "b", "c"), truths=(), **config):
    torch.manual_seed(0)
    made = TaskConfig(**config)
    clip_spec = ClipSpec(made.kind, classes, LabelledConfig(label="x"), 2, 32)
    return build_classification(
        create_model("timesformer_tiny", **BACKBONE), clip_spec, made, truths
    )


def prediction(piece, path, truth, *probabilities, group=None, frame=0):
    name = f"{path}[{frame}]"
    return Prediction(piece, RowPrediction(path, name, group or path, frame, truth, probabilities))


@pytest.mark.parametrize("head", ["default", "mean", "attentive"])
def test_the_loss_is_the_weighted_cross_entropy_and_reaches_every_parameter(head):
    made = task(head=head, class_weights=(1.0, 2.0, 0.5))
    clip, truth = torch.randn(4, 3, 2, 32, 32), torch.tensor([0, 1, 2, 1])
    output = made.network(clip, truth)
    wanted = F.cross_entropy(output.logits, truth, weight=torch.tensor([1.0, 2.0, 0.5]))
    assert torch.equal(output.total, wanted)
    output.total.backward()
    assert all(p.grad is not None for p in made.network.parameters())


def test_several_labels_are_learned_by_binary_cross_entropy():
    made = task(kind="multi_label", balance="loss", truths=[(0, 1), (1,), (1, 2), ()])
    assert made.network.class_weights.tolist() == pytest.approx([3, 1 / 3, 3])
    targets = made._targets([(0, 2), ()])
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0]]
    output = made.network(torch.randn(2, 3, 2, 32, 32), targets)
    wanted = F.binary_cross_entropy_with_logits(
        output.logits, targets, pos_weight=made.network.class_weights
    )
    assert torch.equal(output.total, wanted)


def test_pooled_features_give_the_same_scores_as_clips():
    made = task().network.eval()
    clip = torch.randn(3, 3, 2, 32, 32)
    assert torch.equal(made.logits(made.features(clip)), made.logits(clip))
    with pytest.raises(ConfigError, match="linear head"):
        task(head="attentive").network.logits(torch.randn(2, 24))


def test_balanced_weights_count_rows():
    assert balanced_weights([0, 0, 0, 1], 2, False) == pytest.approx([4 / 6, 2])


def test_rows_of_a_group_with_one_truth_are_averaged():
    rows = [
        prediction(0, "v1", 1, 0.2, 0.8, frame=0, group="p").record,
        prediction(1, "v1", 1, 0.6, 0.4, frame=9, group="p").record,
        prediction(2, "v2", 0, 0.9, 0.1, group="q").record,
        prediction(0, "v1", 1, 0.2, 0.8, frame=0, group="p").record,
    ]
    samples, unit = samples_of(rows)
    assert unit == "groups" and [s.name for s in samples] == ["p", "q"]
    assert samples[0].probabilities == pytest.approx((0.4, 0.6))
    mixed = [*rows, prediction(3, "v3", 0, 0.5, 0.5, group="p").record]
    assert samples_of(mixed)[1] == "files"
    phases = [*rows, prediction(3, "v1", 0, 0.5, 0.5, frame=20, group="p").record]
    samples, unit = samples_of(phases)
    assert unit == "rows" and len(samples) == 4


def test_phases_have_the_mean_over_groups_of_each_ones_accuracy():
    made = task(classes=("a", "b"))
    predictions = [
        prediction(n, "v", truth, 0.9, 0.1, frame=n, group="long")
        for n, truth in enumerate([0, 0, 0, 1])
    ]
    predictions.append(prediction(4, "w", 1, 0.8, 0.2, group="short"))
    figures = made.score(predictions, NO_INTERVALS)
    assert figures.unit == "rows"
    assert figures.values["accuracy"].value == pytest.approx(3 / 5)
    assert figures.values["accuracy_per_group"].value == pytest.approx((0.75 + 0) / 2)


def test_a_figure_that_is_not_defined_chooses_no_checkpoint():
    made = task(kind="multi_label")
    figures = made.score([prediction(0, "v", (), 0.1, 0.1, 0.1)], NO_INTERVALS)
    with pytest.raises(RunError, match=r"not defined there \(no sample has a label\)"):
        figures.choice(made.selects_by)
    some = made.score([prediction(0, "v", (0,), 0.9, 0.1, 0.1)], NO_INTERVALS)
    assert some.choice(made.selects_by) == 1.0
    assert np.isfinite(some.choice(made.selects_by))


def test_a_positive_class_is_one_of_two():
    assert task(classes=("n", "p"), positive="p").positive == "p"
    with pytest.raises(ConfigError, match=r"task\.positive is 'x'"):
        task(classes=("n", "p"), positive="x")
    with pytest.raises(ConfigError, match="name one of two"):
        task(positive="a")
