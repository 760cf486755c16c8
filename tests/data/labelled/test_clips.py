from dataclasses import replace

import numpy as np
import pytest
import torch

from endofm.data.labelled.clips import EvaluationClips, TrainingClips, evaluation_rows, pieces_of
from endofm.data.labelled.samples import ClipSpec, LabelledConfig, join
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.pretraining.dataset import Broken, Corpus
from tests.labelled import PLAIN, write_labelled
from tests.make import frame_indices, numbered_frame, write_frames


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def clip_spec(kind="classification", **data):
    classes = {"segmentation": ("background", "polyp"), "classification": ("normal", "polyp")}
    config = LabelledConfig(label="polyp", **data)
    return ClipSpec(kind, classes.get(kind, ("polyp",)), config, frames=2, pixels=32)


def numbered(folder, num_frames, start=0, stop=None, size=(48, 64)):
    write_frames(folder / "v", [numbered_frame(i, size) for i in range(num_frames)])
    return Segment(folder, "v", start, stop, labels={"polyp": "polyp"})


def test_a_sample_is_the_same_for_the_same_seed_and_pass_and_another_otherwise(manifest):
    corpus = Corpus((tuple(read_manifest(manifest)),), (1.0,))
    one, two = (TrainingClips(corpus, clip_spec(), seed) for seed in (0, 0))
    first, again, later = one[3], two[3], one[3 + 12]
    assert torch.equal(first.frames, again.frames) and torch.equal(first.colors, again.colors)
    assert first.frames.shape == (1, 2, 32, 32, 3) and first.truth in (0, 1)
    assert later.segment != first.segment or not torch.equal(later.frames, first.frames)


def test_without_augmentation_training_shows_what_the_test_shows(manifest):
    segments = read_manifest(manifest)
    plain = clip_spec(**PLAIN)
    sample = TrainingClips(Corpus(((segments[0],),), (1.0,)), plain, 0)[0]
    judged = EvaluationClips(pieces_of(segments[:1], plain), plain)[0]
    assert torch.equal(sample.frames, judged.frames)


def test_masks_lie_on_the_frames_they_belong_to(manifest):
    rows = tuple(s for s in read_manifest(manifest) if s.labels["polyp"] == "polyp")
    clips = TrainingClips(
        Corpus((rows,), (1.0,)), clip_spec("segmentation", rotate_degrees=10.0), 0
    )
    for position in range(6):
        sample = clips[position]
        bright = sample.frames[0].float().mean(-1).numpy() > 160
        counts = sample.truth != 255
        assert (bright == (sample.truth == 1))[counts].mean() > 0.96


def test_boxes_lie_around_the_frames_bright_squares(manifest):
    rows = tuple(s for s in read_manifest(manifest) if s.labels["polyp"] == "polyp")
    clips = TrainingClips(Corpus((rows,), (1.0,)), clip_spec("detection", crop_area=(0.9, 1)), 0)
    for position in range(6):
        sample = clips[position]
        rows_, columns = np.nonzero(sample.frames[0, 0].float().mean(-1).numpy() > 160)
        wanted = [columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1]
        assert sample.truth[0].corners[0] == pytest.approx(wanted, abs=1.6)


def test_files_of_different_sizes_share_a_batch_and_are_judged_at_their_own(tmp_path):
    parts = [
        read_manifest(write_labelled(tmp_path / f"{h}", 2, size=(h, w)))[0]
        for h, w in ((40, 48), (64, 40))
    ]
    view = clip_spec("segmentation")
    clips = TrainingClips(Corpus((tuple(parts),), (1.0,)), view, 0)
    batch = join([clips[0], clips[1]])
    assert batch.frames.shape == (2, 2, 32, 32, 3)
    judged = join([EvaluationClips(pieces_of(parts, view), view)[n] for n in (0, 2)])
    assert [truth.shape for truth in judged.truths] == [(2, 40, 48), (2, 64, 40)]
    assert judged.sizes == [(40, 48), (64, 40)]


def test_every_frame_of_a_row_is_judged_once_or_more_and_from_its_start(tmp_path):
    segment = numbered(tmp_path, 12, start=3, stop=10)
    pieces = pieces_of([segment], clip_spec("detection"))
    assert {index for piece in pieces for index in piece.indices} == set(range(7))


def test_test_views_are_clips_times_crops(tmp_path):
    segment = numbered(tmp_path, 16)
    view = clip_spec(test_views=(2, 3), **PLAIN)
    sample = EvaluationClips(pieces_of([segment], view), view)[0]
    assert sample.frames.shape == (6, 2, 32, 32, 3)
    assert sample.indices == (2, 10, 6, 14)
    crops = sample.frames[:3]
    assert not torch.equal(crops[0], crops[2])


def test_the_legacy_view_is_one_corner_of_the_first_frames(tmp_path):
    segment = numbered(tmp_path, 40)
    view = replace(clip_spec(stride=8), legacy=True, frames=3)
    sample = EvaluationClips(pieces_of([segment], view), view)[0]
    assert sample.indices == (0, 8, 16) and len(sample.frames) == 1


def test_phases_are_judged_by_frames_around_them_across_the_rows_borders(tmp_path):
    segment = numbered(tmp_path, 30, start=9, stop=21, size=(48, 48))
    view = replace(clip_spec(every_frames=5, stride=2), frames=3, pixels=48)
    rows = evaluation_rows([segment], 5)
    assert [row.start_frame for row in rows] == [10, 15, 20]
    shown = [EvaluationClips(pieces_of(rows, view), view)[n] for n in (0, 2)]
    assert [s.indices for s in shown] == [(-2, 0, 2), (-2, 0, 2)]
    frames = [frame_indices(s.frames[0].numpy()) for s in shown]
    assert frames == [[8, 10, 12], [18, 20, 22]]


def test_a_single_frame_is_a_clip_that_repeats_it(tmp_path):
    segment = numbered(tmp_path, 1)
    view = clip_spec()
    sample = TrainingClips(Corpus(((segment,),), (1.0,)), view, 0)[0]
    assert sample.indices == (0, 0)
    assert EvaluationClips(pieces_of([segment], view), view)[0].indices == (0, 0)


def test_a_broken_clip_is_replaced_in_training_and_told_at_test(tmp_path, manifest):
    whole = read_manifest(manifest)[:2]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"none")
    bad = Segment(tmp_path, "bad", 0, 4, labels={"polyp": "polyp"})
    clips = TrainingClips(Corpus(((*whole, bad),), (1.0,)), clip_spec(), 0)
    samples = [clips[position] for position in range(3)]
    assert {name for s in samples for name, _ in s.broken} == {bad.name}
    judged = EvaluationClips(pieces_of([bad], clip_spec()), clip_spec())[0]
    assert isinstance(judged, Broken) and judged.name == bad.name
    assert join([judged]) == [judged]
    mixed = join([judged, EvaluationClips(pieces_of(whole, clip_spec()), clip_spec())[1]])
    assert mixed.broken == [judged] and mixed.numbers == [1]
