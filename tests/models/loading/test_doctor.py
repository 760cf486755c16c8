import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from endofm.errors import WeightsError
from endofm.models.loading.doctor import examine_file
from endofm.models.loading.sizes import LoadOptions
from endofm.models.loading.untrained import suspicions
from endofm.models.registry import create_model
from tests.models.published import SMALL, image_model, polypdiag_of, run_of, video_model
from tests.shared import shared_folder


def saved(content, path):
    torch.save(content, path)
    return path


def test_trained_weights_pass(tmp_path):
    diagnosis = examine_file(saved(run_of(video_model(1), video_model(2)), tmp_path / "run.pth"))
    assert diagnosis.exit_code == 0 and diagnosis.warnings == ()
    assert diagnosis.config.width == 64 and diagnosis.spec.pixels == 48
    assert "Endo-FM" in diagnosis.source_of_statistics


def test_a_new_network_is_noticed_as_untrained(tmp_path):
    torch.manual_seed(0)
    new = create_model("timesformer_tiny", **SMALL)
    diagnosis = examine_file(saved(new.state_dict(), tmp_path / "new.pth"))
    told = " ".join(diagnosis.warnings)
    assert diagnosis.exit_code == 2
    assert "7 tensors are norms of exactly one and zero" in told
    # qkv, proj and both mlp layers, in time too; the second temporal_fc is zero; patch embedding
    assert "14 tensors are layers with a new network's random weights" in told
    assert "are zero throughout" in told and "blocks.1.temporal_fc.weight" in told
    assert "time_embed" in told


def test_a_block_left_random_among_trained_ones_is_noticed(tmp_path):
    torch.manual_seed(0)
    tensors = video_model().state_dict()
    new = create_model("timesformer_tiny", **SMALL).state_dict()
    tensors |= {name: tensor for name, tensor in new.items() if name.startswith("blocks.1.mlp.")}
    (warning,) = examine_file(saved(tensors, tmp_path / "half.pth")).warnings
    assert "2 tensors are layers with a new network's random weights" in warning
    assert "blocks.1.mlp.fc1.weight" in warning


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_noticed(tmp_path, value):
    tensors = video_model().state_dict()
    tensors["blocks.0.mlp.fc1.weight"][3, 4] = value
    (warning,) = examine_file(saved(tensors, tmp_path / "broken.pth")).warnings
    assert warning == (
        "1 tensors hold NaN or infinity: the weights are broken (blocks.0.mlp.fc1.weight)"
    )


def test_constant_and_zero_tensors_are_noticed():
    tensors = video_model().state_dict()
    tensors["pos_embed"].fill_(0.3)
    tensors["blocks.0.attn.proj.weight"].zero_()
    zero, constant = suspicions(tensors)
    assert "zero throughout" in zero and "blocks.0.attn.proj.weight" in zero
    assert "one value throughout" in constant and "pos_embed" in constant


def test_pytorchs_own_start_of_a_layer_is_noticed_and_a_trained_one_is_not():
    torch.manual_seed(0)
    for layer in (nn.Linear(64, 64), nn.Conv2d(3, 64, 8)):
        (warning,) = suspicions(layer.state_dict())
        assert "a new network's random weights" in warning
        with torch.no_grad():
            layer.weight += 0.01 * torch.randn_like(layer.weight)
        assert suspicions(layer.state_dict()) == []


def test_equal_student_and_teacher_are_noticed(tmp_path):
    diagnosis = examine_file(saved(run_of(video_model(), video_model()), tmp_path / "run.pth"))
    assert diagnosis.warnings == ("student and teacher are equal: saved before the first step",)
    assert diagnosis.exit_code == 2


def test_what_does_not_load_is_listed_whole(tmp_path):
    content = polypdiag_of(video_model())
    tensors = content["backbone_state_dict"]
    del tensors["module.norm.bias"], tensors["module.blocks.0.norm1.bias"]
    tensors["module.extra"] = torch.ones(1)
    tensors["module.blocks.1.norm1.bias"] = torch.ones(3)
    diagnosis = examine_file(saved(content, tmp_path / "polypdiag.pth"))
    assert diagnosis.exit_code == 1 and diagnosis.failure
    assert diagnosis.report.missing == ("blocks.0.norm1.bias", "norm.bias")
    assert diagnosis.report.unknown == ("backbone_state_dict.module.extra",)
    assert diagnosis.report.misshapen == {"blocks.1.norm1.bias": ([3], [64])}


def test_image_weights_are_judged_without_the_temporal_parts_they_never_had(tmp_path):
    save_file(image_model().state_dict(), tmp_path / "vit.safetensors")
    diagnosis = examine_file(tmp_path / "vit.safetensors")
    assert diagnosis.exit_code == 0 and diagnosis.warnings == ()
    assert diagnosis.report.started["time_embed"].startswith("zero")


def test_a_file_that_cannot_be_read_raises(tmp_path):
    (tmp_path / "page.pth").write_text("<html>sign in</html>")
    with pytest.raises(WeightsError, match="is a web page"):
        examine_file(tmp_path / "page.pth")


@pytest.mark.golden
def test_the_small_run_as_published_loads():
    path = shared_folder("golden", "published_layout_small.pth")
    diagnosis = examine_file(path, "teacher", LoadOptions(num_heads=4))
    assert diagnosis.failure == "" and diagnosis.report.is_exact
