import csv
from dataclasses import replace

import numpy as np
import pytest

from endofm.data.corpus.prepare import Job, Shard, prepare
from endofm.data.corpus.source import Box, Source
from endofm.data.corpus.tree import Member
from endofm.data.corpus.work import ClipOptions, prepare_source
from endofm.data.labelled.annotations import check_annotations, read_boxes, read_masks
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import open_video
from endofm.errors import ConfigError, CorpusError
from tests.data.corpus.originals import mask, own, picture, voc, write_tree
from tests.make import numbered_frame, write_frames, write_video

ONE_SECOND = ClipOptions(clip_seconds=1.0)


def cvc(tmp_path, **changes):
    """Sequence 4 of CVC-ClinicDB, masks over columns 8 to 32 and boxes to match."""
    numbers = range(68, 79)
    tree = {f"CVC/Original/{i}.png": picture(i) for i in numbers}
    tree |= {f"CVC/Ground Truth/{i}.png": mask(8, 32) for i in numbers}
    tree["CVC/boxes.csv"] = "frame,x1,y1,x2,y2\n" + "".join(f"{i},8,0,31,47\n" for i in numbers)
    source = write_tree(tmp_path / "in", tree | changes)
    options = ClipOptions(short_side_pixels=24)
    return Job("cvc_clinicdb", source, tmp_path / "out", options, allow_partial=True)


def test_masks_and_boxes_are_scaled_with_the_frames(tmp_path):
    (segment,) = read_manifest(prepare(cvc(tmp_path)).manifest)
    check_annotations(segment)
    masks = read_masks(segment, range(11), size=(24, 32))
    assert masks[:, :, 4:16].all() and not masks[:, :, :4].any() and not masks[:, :, 16:].any()
    for boxes in read_boxes(segment, range(11)):
        assert boxes.corners.tolist() == [[4, 0, 16, 24]]
    assert segment.split == "test" and segment.group == "cvc_clinicdb/seq04"


def test_masks_of_another_size_are_refused(tmp_path):
    job = cvc(tmp_path, **{"CVC/Ground Truth/70.png": mask(8, 32, size=(50, 64))})
    with pytest.raises(CorpusError, match=r"70.png is 64x50, but the frames of seq04 are 64x48"):
        prepare(job)


def test_a_missing_mask_is_half_a_download(tmp_path):
    job = cvc(tmp_path)
    (job.source / "CVC/Ground Truth/70.png").unlink()
    with pytest.raises(CorpusError, match=r"seq04 has 11 frames, but 10 masks \(none for 70\)"):
        prepare(job)
    (job.source / "CVC/Original/70.png").unlink()
    prepare(job)
    (job.source / "CVC/Original/71.png").unlink()
    with pytest.raises(CorpusError, match=r"71.png is the mask of no picture"):
        prepare(job)


def test_boxes_outside_the_frame_are_refused_and_slight_ones_cut(tmp_path):
    rows = "frame,x1,y1,x2,y2\n68,8,0,64,48\n"
    (segment,) = read_manifest(prepare(cvc(tmp_path, **{"CVC/boxes.csv": rows})).manifest)
    assert read_boxes(segment, [0])[0].corners.tolist() == [[4, 0, 32, 24]]
    assert "1 boxes cut at the frame's edge" in (tmp_path / "out/log.txt").read_text()
    job = cvc(tmp_path, **{"CVC/boxes.csv": rows.replace("64", "90")})
    with pytest.raises(CorpusError, match=r"seq04 has a box in frame 0 from 8,0 to 90,48, but"):
        prepare(job)


def test_boxes_and_labels_of_absent_frames_are_refused(tmp_path):
    video = Member(write_video(tmp_path / "a.mp4", 10))
    for wrong in ({"boxes": {10: [Box(0, 0, 5, 5)]}}, {"masks": [video] * 9}):
        record = prepare_source(Source("a", video=video, **wrong), tmp_path / "out", ONE_SECOND)
        assert "a has 10 frames, but " in record["left_out"] and not record["clips"]


def test_half_a_download_is_refused_unless_it_is_wanted(tmp_path):
    job = cvc(tmp_path)
    with pytest.raises(
        CorpusError, match=r"11 frames of cvc_clinicdb, but a whole download has 612"
    ):
        prepare(replace(job, allow_partial=False))


def test_a_download_in_a_wrong_place_says_what_was_expected_and_found(tmp_path):
    write_tree(tmp_path / "in", {"papers/a.pdf": b"x", "readme.txt": "hello"})
    job = Job("cvc_clinicdb", tmp_path / "in", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"expected Original/1.tif .*; found readme.txt, papers"):
        prepare(job)
    with pytest.raises(ConfigError, match="did you mean cvc_clinicdb"):
        prepare(replace(job, dataset="cvc-clinic"))


def test_a_split_list_decides(tmp_path):
    for name in "abc":
        write_video(tmp_path / f"in/{name}.mp4", 4)
    (tmp_path / "list.csv").write_text("\ufeffname;split\na.mp4;test\nb.mp4;train\nz.mp4;test\n")
    job = own(tmp_path / "in", tmp_path / "out", split_list=tmp_path / "list.csv")
    assert [s.split for s in read_manifest(prepare(job).manifest)] == ["test", "train", ""]
    (tmp_path / "list.csv").write_text("name,split\na.mp4,test\na.mp4,train\n")
    with pytest.raises(CorpusError, match=r"names a.mp4 twice"):
        prepare(job)
    (tmp_path / "list.csv").write_text("name,split\nx.mp4,test\n")
    with pytest.raises(CorpusError, match=r"names no name of this download \(the first: x.mp4\)"):
        prepare(job)


def test_borders_are_cropped_with_masks_and_boxes(tmp_path):
    frames, truth = [], []
    for i in range(8):
        frame = np.zeros((96, 128, 3), np.uint8)
        frame[16:80, 32:96] = numbered_frame(i, (64, 64))
        frames.append(frame)
        truth.append(
            np.where(np.arange(128) < 64, 255, 0).astype(np.uint8) * np.ones((96, 1), np.uint8)
        )
    write_frames(tmp_path / "in/Original", frames, "{}.png")
    write_frames(tmp_path / "in/Ground Truth", truth, "{}.png")
    for folder in ("Original", "Ground Truth"):
        for i in reversed(range(8)):
            (tmp_path / "in" / folder / f"{i}.png").rename(
                tmp_path / "in" / folder / f"{i + 1}.png"
            )
    rows = "frame,x1,y1,x2,y2\n1,40,20,59,59\n2,0,0,20,10\n"
    (tmp_path / "in/boxes.csv").write_text(rows)
    options = ClipOptions(crop=True)
    job = Job("cvc_clinicdb", tmp_path / "in", tmp_path / "out", options, allow_partial=True)
    (segment,) = read_manifest(prepare(job).manifest)
    with open_video(segment.file) as video:
        height, width = video.size
    assert abs(height - 64) <= 4 and abs(width - 64) <= 4
    check_annotations(segment)
    share = read_masks(segment, [0], size=(height, width)).mean()
    assert abs(share - 0.5) < 0.05
    inside, outside = read_boxes(segment, [0, 1])
    assert len(outside) == 0 and np.abs(inside.corners - [[8, 4, 28, 44]]).max() <= 3


def test_dark_and_colourless_stretches_are_marked(tmp_path):
    body = np.full((48, 64, 3), (200, 110, 90), np.uint8)
    body[10:20] = (90, 30, 20)
    room = np.full((48, 64, 3), (90, 120, 160), np.uint8)
    room[10:20] = (230, 240, 240)
    frames = [body] * 40 + [body * 0] * 35 + [room] * 5 + [room] * 30 + [body * 0] * 3 + [body] * 7
    write_frames(tmp_path / "in/a", frames)
    options = {"mark_views": True, "clip_seconds": 4.0}
    prepare(own(tmp_path / "in", tmp_path / "out", options=options))
    segments = read_manifest(tmp_path / "out/stretches.csv")
    found = [(s.start_frame, s.stop_frame, s.labels["view"]) for s in segments]
    # What lasts less than a second belongs to what came before.
    assert found == [(0, 40, "body"), (40, 75, "blank"), (75, 120, "outside")]
    (clip,) = read_manifest(tmp_path / "out/manifest.csv")
    assert clip.labels["view"] == "body;blank;outside"


def test_labels_of_frames_become_stretches_and_a_clip_has_all_of_its_own(tmp_path):
    phases = "Frame\tPhase\n" + "".join(
        f"{i}\t{'Preparation' if i < 40 else 'ClippingCutting'}\n" for i in range(75)
    )
    tools = "Frame\tGrasper\tBipolar\tHook\tScissors\tClipper\tIrrigator\tSpecimenBag\n"
    tools += "0\t1\t0\t1\t0\t0\t0\t0\n25\t0\t0\t0\t0\t0\t0\t0\n50\t0\t0\t0\t0\t1\t0\t0\n"
    write_tree(
        tmp_path / "in",
        {"videos/video41.mp4": 75, "phase_annotations/video41-phase.txt": phases}
        | {"tool_annotations/video41-tool.txt": tools},
    )
    options = ClipOptions(clip_seconds=1.0)
    job = Job("cholec80", tmp_path / "in", tmp_path / "out", options, allow_partial=True)
    clips = read_manifest(prepare(job).manifest)
    assert [(s.labels["phase"], s.labels["tool"], s.split) for s in clips] == [
        ("Preparation", "Grasper;Hook;none", "test"),
        ("Preparation;ClippingCutting", "none;Clipper", "test"),
    ]
    stretches = read_manifest(tmp_path / "out/stretches.csv")
    rows = [(s.path[-10:-4], s.start_frame, s.stop_frame, *s.labels.values()) for s in stretches]
    assert rows == [
        ("000000", 0, 25, "Preparation", "Grasper;Hook"),
        ("000000", 25, 30, "Preparation", "none"),
        ("000030", 0, 10, "Preparation", "none"),
        ("000030", 10, 20, "ClippingCutting", "none"),
        ("000030", 20, 45, "ClippingCutting", "Clipper"),
    ]


def test_labels_beyond_the_video_are_refused(tmp_path):
    phases = "Frame\tPhase\n" + "".join(f"{i}\tPreparation\n" for i in range(90))
    write_tree(tmp_path / "in", {"video41.mp4": 40, "video41-phase.txt": phases})
    job = Job("cholec80", tmp_path / "in", tmp_path / "out", ONE_SECOND, allow_partial=True)
    with pytest.raises(CorpusError, match="video41 has 40 frames, but labels up to frame 89"):
        prepare(job)


@pytest.mark.real
def test_real_sequences_are_prepared_with_their_masks(tmp_path):
    from tests.shared import shared_folder

    source = shared_folder("real", "cvc_clinicdb")
    options = ClipOptions(short_side_pixels=128)
    job = Job("cvc_clinicdb", source, tmp_path / "out", options, allow_partial=True)
    summary = prepare(job)
    segments = read_manifest(summary.manifest)
    assert len(segments) == 17 and summary.num_frames == 363
    for segment in segments:
        check_annotations(segment)
    first = segments[0]
    with open_video(first.file) as video, open_video(source / "images/seq01") as original:
        read, given = video.read([7]), original.read([7], (128, 170))
    assert video.size == (128, 170)
    assert np.abs(read.astype(int) - given).mean() < 5
    box = read_boxes(first, [7])[0].corners[0]
    rows, columns = np.nonzero(read_masks(first, [7])[0])
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(box - edges).max() < 1.5


def test_options_that_can_not_be_meant_are_refused():
    for wrong in ({"crf": 60}, {"gop_frames": 1}, {"short_side_pixels": 255}, {"clip_seconds": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ClipOptions(**wrong)
    with pytest.raises(ConfigError, match="leave out crop"):
        ClipOptions(codec="copy", crop=True)
    with pytest.raises(ConfigError, match="shard is 3/2"):
        Shard(3, 2)


def test_boxes_of_voc_files_reach_the_table(tmp_path):
    tree = {f"PolypsSet/val2019/Image/1/{i}.png": picture(i) for i in (1, 2)}
    tree |= {
        f"PolypsSet/val2019/Annotation/1/{i}.xml": voc([(1, 1, 30, 40, "adenomatous")])
        for i in (1, 2)
    }
    job = Job("kumc", write_tree(tmp_path, tree), tmp_path / "out", ONE_SECOND, allow_partial=True)
    (segment,) = read_manifest(prepare(job).manifest)
    with (tmp_path / "out/boxes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["adenoma", "adenoma"]
    assert read_boxes(segment, [1])[0].corners.tolist() == [[0, 0, 30, 40]]


def test_the_legacy_lists_are_written_under_a_name_that_says_they_leak(tmp_path):
    tree = {f"PNG/Original/{i}.png": picture(i, size=(24, 32)) for i in range(1, 613)}
    tree |= {f"PNG/Ground Truth/{i}.png": mask(0, 9, size=(24, 32)) for i in range(1, 613)}
    write_tree(tmp_path / "in", tree)
    prepare(Job("cvc_clinicdb", tmp_path / "in", tmp_path / "out"))
    train = read_manifest(tmp_path / "out/legacy_leaking_train.csv")
    test = read_manifest(tmp_path / "out/legacy_leaking_test.csv")
    assert (len(train), len(test)) == (20, 9)
    assert sum(s.num_frames for s in test) == 171
    assert len({s.name for s in train} & {s.name for s in test}) == 7
    first = next(s for s in train if s.group.endswith("seq10"))
    assert (first.path, first.start_frame, first.stop_frame) == ("clips/seq10/000000.mp4", 0, 6)
    clean = read_manifest(tmp_path / "out/manifest.csv")
    assert not {s.group for s in clean if s.split == "train"} & {s.group for s in test}
