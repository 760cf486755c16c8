"""Each adapter on a small tree in its original's layout, written in a scrambled order."""

import json

import pytest

from endofm.data.corpus.adapters import ADAPTERS, find_adapter
from endofm.data.corpus.prepare import list_sources
from endofm.data.corpus.source import Box, Stretch
from endofm.data.corpus.tree import Tree
from endofm.errors import CorpusError
from tests.data.corpus.originals import mask, picture, voc, write_tree, zipped

JPG, PNG, MASK, VIDEO = picture(0, ".jpg"), picture(0), mask(0, 9), b"video"


def listed(dataset, root, files=None):
    tree = Tree(write_tree(root, files) if files else root)
    return {s.name: s for s in list_sources(find_adapter(dataset), tree, True)}, tree.left_out


def stems(members):
    return [member.name.rpartition(".")[0] for member in members]


def frames(folder, count, pattern="{}.jpg", start=1, content=JPG):
    return {f"{folder}/{pattern.format(i)}": content for i in range(start, start + count)}


def test_colonoscopic_lesions_are_seen_in_two_lights(tmp_path):
    tree = {
        "Adenoma/adenoma_02/videos/WL.mp4": VIDEO,
        "Adenoma/adenoma_02/videos/NBI.mp4": VIDEO,
        "Hyperplasic/hyperplasic_10/videos/NBI.mp4": VIDEO,
        "serrated_1_WL.mp4": VIDEO,
    }
    found, _ = listed("colonoscopic", tmp_path, tree)
    assert [(s.group, s.labels["light"]) for s in found.values()] == [
        ("colonoscopic/serrated_01", "white light"),
        ("colonoscopic/adenoma_02", "narrow-band"),
        ("colonoscopic/adenoma_02", "white light"),
        ("colonoscopic/hyperplastic_10", "narrow-band"),
    ]


def sun_tree():
    top = "sundatabase_positive_part1"
    tree = frames(f"{top}/case1", 12, "a_image{}.jpg")
    tree |= frames("sundatabase_negative_part2/case3", 2, "b_image{}.jpg")
    tree[f"{top}/annotation_txt/case1.txt"] = (
        "a_image2.jpg 10,5,20,15,0 -3,1,9,70,0\na_image10.jpg 1,2,3,4,1\n"
    )
    return tree


def test_sun_frames_are_in_order_with_the_boxes_of_their_lines(tmp_path):
    found, left_out = listed("sun", tmp_path, sun_tree())
    case = found["positive/case1"]
    assert stems(case.pictures) == [f"a_image{i}" for i in range(1, 13)]
    assert case.boxes == {
        1: [Box(10, 5, 20, 15, "polyp"), Box(-3, 1, 9, 70, "polyp")],
        9: [Box(1, 2, 3, 4, "polyp")],
    }
    normal = found["negative/case3"]
    assert normal.labels == {"polyp": "normal"} and normal.boxes == {} and not left_out
    assert (case.group, case.fps) == ("sun/positive/case1", 30)


def test_sun_labels_without_their_case_are_told(tmp_path):
    tree = sun_tree() | {"sundatabase_positive_part1/annotation_txt/case7.txt": "x.jpg 1,2,3,4,0"}
    _, left_out = listed("sun", tmp_path, tree)
    assert "1 labels have no case" in left_out[0] and "case7" in left_out[0]
    (tmp_path / "sundatabase_positive_part1/case1/a_image2.jpg").unlink()
    with pytest.raises(CorpusError, match=r"line 1 labels a_image2.jpg, which is not in"):
        listed("sun", tmp_path)


def test_a_case_in_two_places_is_refused(tmp_path):
    tree = sun_tree() | {"sundatabase_positive_part2/case1/a.jpg": JPG}
    with pytest.raises(CorpusError, match="has positive/case1 twice"):
        listed("sun", tmp_path, tree)


def test_sun_seg_clips_have_masks_lesions_and_the_case_as_group(tmp_path):
    tree = frames("SUN-SEG/TrainDataset/Frame/case1_1", 11, "x_{}.jpg")
    tree |= frames("SUN-SEG/TrainDataset/GT/case1_1", 11, "x_{}.png", content=MASK)
    tree |= frames("SUN-SEG/TestHardDataset/Unseen/Frame/case2_3", 2, "y_{}.jpg")
    tree |= frames("SUN-SEG/TestHardDataset/Unseen/GT/case2_3", 2, "y_{}.png", content=MASK)
    tree["SUN-SEG/TrainDataset/Classification/classification.txt"] = "x_1.jpg\tlow_grade_adenoma\n"
    found, _ = listed("sun_seg", tmp_path, tree)
    train, test = found["train/case1_1"], found["test_hard_unseen/case2_3"]
    assert stems(train.pictures) == stems(train.masks) == [f"x_{i}" for i in range(1, 12)]
    assert train.labels == {"polyp": "polyp", "lesion": "low_grade_adenoma"}
    assert (train.group, train.split) == ("sun/positive/case1", "train")
    assert (test.group, test.split) == ("sun/positive/case2", "test_hard_unseen")


def test_sun_seg_without_frames_says_which_step_is_missing(tmp_path):
    tree = frames("TrainDataset/GT/case1_1", 2, "x_{}.png", content=MASK)
    with pytest.raises(CorpusError, match=r"no folder Frame; .* step 3"):
        listed("sun_seg", tmp_path, tree)
    tree |= frames("TrainDataset/Frame/case1_1", 3, "x_{}.jpg")
    with pytest.raises(CorpusError, match=r"3 frames, but 2 masks \(none for x_3\)"):
        listed("sun_seg", tmp_path, tree)
    tree = {"TrainDataset/Classification/classification.txt": "x_1.jpg\twart\n"}
    with pytest.raises(CorpusError, match="but a picture and one of"):
        listed("sun_seg", tmp_path, tree)


def test_ldpolypvideo_counts_its_boxes(tmp_path):
    tree = frames("LD/Train/Images/7", 10) | frames("LD/Test/Images/7", 1)
    tree |= {f"LD/Train/Annotations/7/{i}.txt": "0\n" for i in range(1, 10)}
    tree |= {
        "LD/Train/Annotations/7/10.txt": "2\n1 2 3 4\n5 6 7 8\n",
        "LD/Test/Annotations/7/1.txt": "0",
    }
    tree |= {"LD/videos without polyps/12.avi": VIDEO, "LD/more/3.avi": VIDEO}
    found, left_out = listed("ldpolypvideo", tmp_path, tree)
    train = found["Train/7"]
    assert stems(train.pictures) == [str(i) for i in range(1, 11)] and train.split == "train"
    assert train.boxes == {9: [Box(1, 2, 3, 4, "polyp"), Box(5, 6, 7, 8, "polyp")]}
    assert found["Test/7"].boxes == {} and found["Test/7"].labels == {"polyp": "normal"}
    assert found["LD/videos without polyps/12.avi"].labels == {"polyp": "normal"}
    assert found["LD/more/3.avi"].labels == {} and not left_out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Train/Annotations/7/2.txt": "1\n"}, "no count followed by so many rows"),
        ({"Train/Annotations/7/9.txt": "0\n"}, "2 frames and 3 annotations, which don't match"),
    ],
)
def test_ldpolypvideo_annotations_that_do_not_fit_are_refused(tmp_path, change, said):
    tree = frames("Train/Images/7", 2) | {f"Train/Annotations/7/{i}.txt": "0\n" for i in (1, 2)}
    with pytest.raises(CorpusError, match=said):
        listed("ldpolypvideo", tmp_path, tree | change)


def test_hyper_kvasir_videos_take_findings_from_the_table(tmp_path):
    tree = {
        "labeled-videos/lower-gi-tract/pathological-findings/polyps/a1.avi": VIDEO,
        "labeled-videos/upper-gi-tract/landmarks/pylorus/b2.avi": VIDEO,
        "labeled-videos/video-labels.csv": "\ufeffVideo file;Organ;Finding 1;Finding 2\n"
        "a1;Lower GI;Polyps;Resection\nz9;Lower GI;Polyps;\n",
    }
    found, left_out = listed("hyper_kvasir_videos", tmp_path, tree)
    first, second = found.values()
    assert first.labels["organ"] == "lower gi" and first.labels["finding"] == "polyps;resection"
    assert second.labels == {"organ": "upper gi", "category": "landmarks", "finding": "pylorus"}
    assert first.group == "hyper_kvasir/a1"
    assert "1 labels have no video" in left_out[0] and "1 of the videos" in left_out[1]


def test_hyper_kvasir_stills_get_the_masks_of_their_segmented_copies(tmp_path):
    top = "labeled-images/lower-gi-tract/pathological-findings/polyps"
    boxes = {"p1": {"bbox": [{"label": "polyp", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}]}}
    tree = {
        f"{top}/p1.jpg": JPG,
        f"{top}/p2.jpg": JPG,
        "segmented-images/images/p1.jpg": JPG,
        "segmented-images/masks/p1.jpg": MASK,
        "segmented-images/images/p3.jpg": JPG,
        "segmented-images/masks/p3.jpg": MASK,
        "segmented-images/bounding-boxes.json": json.dumps(boxes),
    }
    found, _ = listed("hyper_kvasir_labelled", tmp_path, tree)
    assert [(s.group, len(s.masks), s.boxes) for s in found.values()] == [
        ("hyper_kvasir/p1", 1, {0: [Box(1, 2, 3, 4, "polyp")]}),
        ("hyper_kvasir/p2", 0, None),
        ("hyper_kvasir/p3", 1, None),
    ]
    assert {s.labels["finding"] for s in found.values()} == {"polyps"}


CAPSULE = "filename;video_id;frame_number;finding_category;finding_class;" + ";".join(
    f"{axis}{i}" for i in range(1, 5) for axis in "xy"
)


def test_kvasir_capsule_findings_are_stretches_of_the_videos(tmp_path):
    rows = [f"v1_{i}.jpg;v1;{i};Luminal;Blood - fresh;;;;;;;;" for i in (5, 3, 4, 9)]
    rows += ["v1_9.jpg;v1;9;Luminal;Polyp;10;20;30;20;30;40;10;40"]
    tree = {
        "labelled_videos/v1.mp4": VIDEO,
        "unlabelled_videos/u1.mp4": VIDEO,
        "labelled_images/Polyp/v1_9.jpg": JPG,
        "metadata.csv": "\n".join([CAPSULE, *rows]),
    }
    found, left_out = listed("kvasir_capsule", tmp_path, tree)
    labelled = found["labelled_videos/v1.mp4"]
    assert labelled.stretches == [
        Stretch(3, 6, {"finding": "blood - fresh"}),
        Stretch(9, 10, {"finding": "blood - fresh;polyp"}),
    ]
    still = found["labelled_images/Polyp/v1_9.jpg"]
    assert still.group == labelled.group == "kvasir_capsule/v1" and not left_out
    assert still.boxes == {0: [Box(10, 20, 30, 40, "polyp")]}
    assert found["unlabelled_videos/u1.mp4"].stretches == ()


def test_unknown_label_values_are_refused(tmp_path):
    tree = {
        "labelled_videos/v1.mp4": VIDEO,
        "metadata.csv": f"{CAPSULE}\nv1_1.jpg;v1;1;Luminal;Wart;;;;;;;;\n",
    }
    with pytest.raises(CorpusError, match=r"metadata.csv has the finding 'Wart', which is none of"):
        listed("kvasir_capsule", tmp_path, tree)
    (tmp_path / "metadata.csv").write_text("a;b\n1;2\n")
    with pytest.raises(CorpusError, match=r"no column 'filename' \(found: a, b\)"):
        listed("kvasir_capsule", tmp_path)


def test_cholect45_frames_have_their_triplets(tmp_path):
    tree = frames("CholecT45/data/VID02", 12, "{:06d}.png", 0, PNG)
    rows = [f"{i},{int(i < 5)},{int(i == 3)}" for i in range(12)]
    tree |= {
        f"CholecT45/{kind}/VID02.txt": "\n".join(rows)
        for kind in ("triplet", "instrument", "verb", "target")
    }
    tree["CholecT45/dict/instrument.txt"] = "0:grasper\n1:hook\n"
    found, left_out = listed("cholect45", tmp_path, tree)
    video = found["VID02"]
    assert stems(video.pictures) == [f"{i:06d}" for i in range(12)]
    assert video.group == "cholec80/video02" and not left_out
    assert [(s.start, s.stop, s.labels["instrument"]) for s in video.stretches] == [
        (0, 3, "grasper"),
        (3, 4, "grasper;hook"),
        (4, 5, "grasper"),
        (5, 12, "none"),
    ]
    assert video.stretches[0].labels["triplet"] == "0"
    (tmp_path / "CholecT45/data/VID02/000003.png").unlink()
    with pytest.raises(CorpusError, match="labels frame 3, which is not there"):
        listed("cholect45", tmp_path)


def test_cholec80_is_split_as_its_authors_did(tmp_path):
    phase = "Frame\tPhase\n0\tPreparation\n1\tPreparation\n"
    tree = {f"videos/video{n}.mp4": VIDEO for n in ("40", "41")}
    tree["phase_annotations/video40-phase.txt"] = phase
    found, left_out = listed("cholec80", tmp_path, tree)
    assert [s.split for s in found.values()] == ["train", "test"]
    assert found["video40"].stretches == [Stretch(0, 2, {"phase": "Preparation"})]
    assert "1 of the videos" in left_out[0]
    (tmp_path / "phase_annotations/video40-phase.txt").write_text(phase + "2\tLunch\n")
    with pytest.raises(CorpusError, match="has the phase 'Lunch'"):
        listed("cholec80", tmp_path)


def test_polypdiag_lists_say_split_and_label(tmp_path):
    tree = {f"PolypDiag/videos/{n}.mp4": VIDEO for n in "abc"}
    tree |= {
        "PolypDiag/splits/train.txt": "a.mp4,1\nz.mp4,0\n",
        "PolypDiag/splits/val.txt": "b.mp4,0",
    }
    found, left_out = listed("polypdiag", tmp_path, tree)
    assert [(s.split, s.labels) for s in found.values()] == [
        ("train", {"polyp": "polyp"}),
        ("val", {"polyp": "normal"}),
        ("", {}),
    ]
    assert "1 labels have no video" in left_out[0] and "1 of the videos" in left_out[1]
    (tmp_path / "PolypDiag/splits/val.txt").write_text("a.mp4,1\n")
    with pytest.raises(CorpusError, match="has a, which is in train too"):
        listed("polypdiag", tmp_path)


@pytest.mark.parametrize(
    "places", [("Original", "Ground Truth", "tif"), ("images", "masks", "png")]
)
def test_cvc_clinicdb_is_cut_into_its_sequences(tmp_path, places):
    pictures, masks, suffix = places
    tree = frames(f"CVC/{pictures}", 100, f"{{}}.{suffix}", content=PNG)
    tree |= frames(f"CVC/{masks}", 100, f"{{}}.{suffix}", content=MASK)
    found, _ = listed("cvc_clinicdb", tmp_path, tree)
    assert [(len(s.pictures), s.split) for s in found.values()] == [
        (25, "test"),
        (25, "train"),
        (17, "test"),
        (11, "test"),
        (22, "train"),
    ]
    assert stems(found["seq05"].masks) == [str(i) for i in range(79, 101)]


def test_cvc_clinicvideodb_masks_lie_beside_or_apart(tmp_path):
    top = "CVC-VideoClinicDBtrain_valid"
    tree = frames(f"{top}/1", 11, "1_{}.png") | frames(
        f"{top}/1", 11, "1_{}_mask.png", content=MASK
    )
    tree |= frames(f"{top}/images/2", 2, "2-{}.png") | frames(f"{top}/masks/2", 2, "2-{}_Polyp.tif")
    found, _ = listed("cvc_clinicvideodb", tmp_path, tree)
    beside, apart = found[f"{top}/1"], found[f"{top}/2"]
    assert stems(beside.pictures) == [f"1_{i}" for i in range(1, 12)]
    assert stems(beside.masks) == [f"1_{i}_mask" for i in range(1, 12)] and len(apart.masks) == 2


@pytest.mark.parametrize("kind", ["json", "yolo"])
def test_kvasir_seg_boxes_come_in_two_forms(tmp_path, kind):
    tree = {"images/b.jpg": JPG, "images/a.jpg": JPG, "masks/a.jpg": MASK, "masks/c.jpg": MASK}
    if kind == "json":
        box = {"label": "polyp", "xmin": 16, "ymin": 12, "xmax": 47, "ymax": 35}
        tree["kavsir_bboxes.json"] = json.dumps({"a": {"height": 48, "width": 64, "bbox": [box]}})
    else:
        tree["labels/a.txt"] = "0 0.5 0.5 0.5 0.5\n"
    found, left_out = listed("kvasir_seg", tmp_path, tree)
    assert found["a.jpg"].boxes == {0: [Box(16, 12, 47, 35, "polyp")]}
    assert found["b.jpg"].boxes is None and not found["b.jpg"].masks
    assert "1 labels have no picture" in left_out[0] and "c" in left_out[0]


def test_kumc_mixed_frames_go_back_to_their_videos(tmp_path):
    tree, box = {}, [(2, 3, 20, 30, "Hyperplastic")]
    # Numbered through; only the annotation knows from which video a frame came, and where.
    for number, (video, frame) in enumerate([("v2", 2), ("v1", 10), ("v2", 1), ("v1", 9)], 1):
        path = f"/home/x/{video}/{frame}.jpg"
        tree[f"PolypsSet/train2019/Image/{number}.jpg"] = JPG
        tree[f"PolypsSet/train2019/Annotation/{number}.xml"] = voc(box, path, f"{frame}.jpg")
    tree |= frames("PolypsSet/test2019/Image/3", 11)
    tree |= {f"PolypsSet/test2019/Annotation/3/{i}.xml": voc([]) for i in range(1, 11)}
    found, left_out = listed("kumc", tmp_path, tree)
    assert stems(found["train/x-v1"].pictures) == ["4", "2"]
    assert stems(found["train/x-v2"].pictures) == ["3", "1"]
    assert found["train/x-v1"].boxes[0] == [Box(1, 2, 19, 29, "hyperplastic")]
    assert found["train/x-v1"].labels["lesion"] == "hyperplastic"
    assert stems(found["test/3"].pictures) == [str(i) for i in range(1, 11)]
    assert "1 frames without annotation (the first: 11)" in left_out[0]
    xml = tmp_path / "PolypsSet/test2019/Annotation/3/1.xml"
    xml.write_text(voc([(1, 1, 2, 2, "wart")]))
    with pytest.raises(CorpusError, match="has the lesion 'wart'"):
        listed("kumc", tmp_path)


def test_ev9v_lists_say_split_and_view(tmp_path):
    tree = frames("Images/v1", 11, "frame_{:06d}.jpg") | frames("Images/v2", 1, "frame_{:06d}.jpg")
    tree |= {"labels.csv": "names,labels\nv1,4\nv2,8\n", "train.txt": "v1\n", "test.txt": "v2\n"}
    found, left_out = listed("ev9v", tmp_path, tree | {"validation.txt": ""})
    assert [(s.split, s.labels["view"]) for s in found.values()] == [("train", "4"), ("test", "8")]
    assert len(found["v1"].pictures) == 11 and not left_out
    (tmp_path / "validation.txt").write_text("v7\nv9\n")
    (tmp_path / "test.txt").write_text("")
    found, left_out = listed("ev9v", tmp_path)
    assert found["v2"].split == "" and len(found) == 2
    assert "2 videos of the lists are not in" in left_out[0] and "the first: v7" in left_out[0]
    assert "1 videos are in no list, the first: v2" in left_out[1]
    (tmp_path / "validation.txt").write_text("v1")
    with pytest.raises(CorpusError, match="has v1, which is in train too"):
        listed("ev9v", tmp_path)


def test_an_own_folder_takes_labels_from_a_table(tmp_path):
    tree = {"x/a.mp4": VIDEO, "y/a.mp4": VIDEO, "y/b.avi": VIDEO} | frames("z/run", 3)
    tree |= {"z/masks/1.png": MASK}
    tree["labels.csv"] = "\ufeffname;group;split;label_polyp;site\nx/a.mp4;p1;train;yes;\n"
    tree["labels.csv"] += "b;p2;test;no;oslo\nz/run;p2;test;;\n"
    found, left_out = listed("own_folder", tmp_path, tree)
    assert list(found) == ["x/a.mp4", "y/a.mp4", "y/b.avi", "z/run"]
    assert found["x/a.mp4"].labels == {"polyp": "yes"} and found["x/a.mp4"].group == "own/p1"
    assert found["y/b.avi"].labels == {"polyp": "no", "site": "oslo"}
    assert found["z/run"].split == "test" and found["y/a.mp4"].labels == {}
    assert "named like a folder of labels" in left_out[0] and "y/a.mp4" in left_out[1]
    (tmp_path / "labels.csv").write_text("name,polyp\na.mp4,yes\n")
    with pytest.raises(CorpusError, match=r"a.mp4, which may be x/a.mp4 or y/a.mp4"):
        listed("own_folder", tmp_path)
    (tmp_path / "labels.csv").write_text("polyp\nyes\n")
    with pytest.raises(CorpusError, match="no column that names the videos"):
        listed("own_folder", tmp_path)


def test_an_own_folder_takes_boxes_from_a_coco_file(tmp_path):
    images = [{"id": i, "file_name": f"run/{i}.jpg"} for i in (1, 2)]
    coco = {"images": images, "annotations": [{"image_id": 2, "bbox": [1, 2, 10, 20]}]}
    tree = frames("run", 2) | {"coco.json": json.dumps(coco)}
    found, _ = listed("own_folder", tmp_path, tree)
    assert found["run"].boxes == {1: [Box(1, 2, 10, 21)]}
    write_tree(tmp_path, frames("run", 3))
    with pytest.raises(CorpusError, match=r"run/3.jpg is not among the pictures of the COCO file"):
        listed("own_folder", tmp_path)


def test_a_download_may_stay_in_its_archive(tmp_path):
    write_tree(tmp_path / "plain", sun_tree())
    plain, _ = listed("sun", tmp_path / "plain")
    packed, _ = listed("sun", zipped(tmp_path / "plain", tmp_path / "sun.zip"))
    assert packed.keys() == plain.keys()
    for name, source in packed.items():
        assert stems(source.pictures) == stems(plain[name].pictures)
        assert source.boxes == plain[name].boxes
        assert source.fingerprint == plain[name].fingerprint


@pytest.mark.parametrize("dataset", sorted(ADAPTERS))
def test_an_empty_folder_is_no_dataset(tmp_path, dataset):
    with pytest.raises(CorpusError, match=f"is not laid out as {dataset} is after unpacking"):
        listed(dataset, tmp_path)
