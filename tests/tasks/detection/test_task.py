"""Detection as the program shows and judges it: boxes from the file to the square and back."""

import numpy as np
import pytest
import torch

from endofm.data.labelled.clips import EvaluationClips, Piece, pieces_of, training_sample
from endofm.data.labelled.samples import ClipSpec, LabelledConfig, join
from endofm.data.manifests.manifest import read_manifest
from endofm.heads.detection import Dense
from endofm.losses.detection import assign_all, make_points
from endofm.models.registry import create_model
from endofm.tasks.detection.task import make_detection
from endofm.tasks.finetuning.contract import NO_INTERVALS, Prediction
from tests.labelled import PLAIN, write_labelled

PIXELS = 64
SIZES = [(40, 72), (90, 44), (64, 64)]


def material(folder, size):
    """Two clips of two frames, the first with a bright square in each."""
    manifest = write_labelled(folder, 2, num_frames=2, size=size, splits=())
    data = LabelledConfig(manifests=(manifest,), classes=("polyp",), **PLAIN)
    clip_spec = ClipSpec("detection", ("polyp",), data, 2, PIXELS)
    return list(read_manifest(manifest)), clip_spec


def knows(task, truths):
    """Make a task's network say the boxes it is asked to learn, at the points that answer."""

    def told(clip, keys):
        sizes = [(PIXELS // stride,) * 2 for stride in (4, 8, 16, 32, 64)]
        points = make_points(sizes, task.network.network.strides)
        assigned = assign_all(points, truths)
        sure = torch.where(assigned.classes >= 0, 8.0, -12.0)
        return Dense(sure[..., None], assigned.distances, sure), None, points

    task.network.network.forward = told
    return task


@pytest.mark.parametrize("size", SIZES)
def test_the_boxes_that_are_learned_lie_on_what_is_shown(tmp_path, size):
    segments, clip_spec = material(tmp_path, size)
    with_square, without = (
        training_sample(segment, clip_spec, np.random.default_rng(0)) for segment in segments
    )
    assert [len(boxes) for boxes in without.truth] == [0, 0]
    for frame, boxes in zip(with_square.frames[0].numpy(), with_square.truth, strict=True):
        rows, columns = np.nonzero(frame[..., 0] > 165)  # half-way from the ground to the square
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert boxes.corners[0] == pytest.approx(seen, abs=1)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_learned_and_told_again_without_a_fault_scores_1(tmp_path, size):
    segments, clip_spec = material(tmp_path, size)
    learned = [
        (torch.from_numpy(boxes.corners), torch.from_numpy(boxes.classes))
        for segment in segments
        for boxes in training_sample(segment, clip_spec, np.random.default_rng(0)).truth
    ]
    backbone = create_model(
        "timesformer_tiny", width=32, depth=1, num_heads=2, patch_pixels=8, image_pixels=PIXELS
    )
    task = knows(make_detection(backbone, clip_spec), learned)
    pieces = pieces_of(segments, clip_spec)
    assert pieces == [Piece(segment, (0, 1)) for segment in segments]
    clips = EvaluationClips(pieces, clip_spec)
    batch = join([clips[number] for number in range(len(clips))])
    assert batch.sizes == [size, size]
    records = [record for of_piece in task.predict(batch) for record in of_piece]
    for frame in records[0].frames:
        np.testing.assert_allclose(frame.boxes, frame.true, atol=1e-4)
    figures = task.score([Prediction(n, one) for n, one in enumerate(records)], NO_INTERVALS).values
    for name in ("map_50", "map_50_95", "box_f1", "center_f1"):
        assert figures[name].value == 1, name
