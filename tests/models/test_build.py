import pytest
import torch

from endofm.errors import WeightsError
from endofm.heads.projection import ProjectionHead
from endofm.models.build import initialize
from endofm.models.registry import create_model
from tests.models.published import (
    SMALL,
    hugging_face_of,
    image_model,
    prefixed,
    run_of,
    save,
    timesformer_of,
    video_model,
)


def fresh():
    torch.manual_seed(5)
    return create_model("timesformer_tiny", **SMALL), ProjectionHead(64, 32, 16, 8)


def same(ours, theirs):
    return all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_a_run_starts_from_a_students_backbone_and_head(tmp_path):
    student, head = video_model(1), ProjectionHead(64, 32, 16, 8)
    content = run_of(student, video_model(2))
    content["student"] = prefixed(student.state_dict(), "module.backbone.") | prefixed(
        head.state_dict(), "module.head."
    )
    ours, our_head = fresh()
    told = initialize(ours, our_head, str(save(content, tmp_path / "run.pth")))
    assert told == "Backbone and projection head start from run.pth."
    assert same(ours, student) and same(our_head, head)


@pytest.mark.parametrize("wrap", [timesformer_of, hugging_face_of])
def test_a_classifier_is_no_projection_head(tmp_path, wrap):
    (ours, head), reference = fresh(), video_model()
    told = initialize(ours, head, str(save(wrap(reference), tmp_path / "model.pth")))
    assert "has no projection head" in told and same(ours, reference)


def test_image_weights_are_recognized_by_their_names(tmp_path):
    ours, head = fresh()
    image_vit = image_model()
    path = save(image_vit.state_dict() | {"mask_token": torch.zeros(1, 64)}, tmp_path / "v2.pth")
    told = initialize(ours, head, str(path))
    assert "image weights v2.pth" in told and "left out mask_token" in told
    assert torch.equal(ours.cls_token, image_vit.cls_token) and not ours.time_embed.any()


def test_another_network_is_refused_by_name(tmp_path):
    path = save({"layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match="a ResNet"):
        initialize(*fresh(), str(path))
