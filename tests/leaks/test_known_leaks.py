import csv

import numpy as np
import pytest

from endofm.cli import main
from endofm.data.leakage import Leak, known_leaks, leaks_file, read_leaks, refuse_leaks, write_leaks
from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.data.manifests.quarantine import read_quarantine
from endofm.data.pretraining.dataset import load_corpus
from endofm.errors import ManifestError, RunError
from endofm.synthetic import render_clip
from pretrain.plan import check_files
from tests.leaks.planting import mirror, write_h264
from tests.make import write_frames
from tests.small import small_recipe


def rows(folder, *names, split="train"):
    return [Segment(folder, name, group=name, split=split) for name in names]


@pytest.fixture(scope="module")
def films():
    return [render_clip(seed, "colon", False, 12, 64, 64).frames for seed in range(3)]


@pytest.fixture
def corpora(tmp_path, films):
    """Two to train on, and held-out ones of which one mirrors the first and one is the second."""
    for name, frames in zip(("a", "b", "c"), films, strict=True):
        write_h264(tmp_path / f"{name}.mp4", frames, 18, 15)
    write_h264(tmp_path / "a_copy.mp4", mirror(films[0], np.random.default_rng(0)), 28, 15)
    (tmp_path / "b_copy.mp4").write_bytes((tmp_path / "b.mp4").read_bytes())
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write_manifest(train, rows(tmp_path, "a.mp4", "b.mp4"))
    write_manifest(test, rows(tmp_path, "a_copy.mp4", "b_copy.mp4", "c.mp4", split="test"))
    return train, test


def leaks(*words, cache):
    words = [str(word) for word in words]
    main(["corpus", "leaks", *words, "--cache", str(cache), "--workers", "1"])


def test_leaks_are_found_listed_shown_and_refused(corpora, tmp_path, capsys):
    train, test = corpora
    leaks(train, "--against", test, "--out", tmp_path / "out", cache=tmp_path / "cache")
    found = {(leak.clip, leak.against): leak for leak in read_leaks(train)}
    assert {key: leak.kind for key, leak in found.items()} == {
        ("a.mp4", "a_copy.mp4"): "near", ("b.mp4", "b_copy.mp4"): "exact",
    }  # fmt: skip
    near = found["a.mp4", "a_copy.mp4"]
    assert near.change.startswith("mirrored") and near.splits == "train/test"
    assert near.manifest == str(test.resolve()) and near.frames == "0-10"
    page = (tmp_path / "out" / "leaks.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2 and "data:image/webp" in page
    with (tmp_path / "out" / "leaks.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    recipe = small_recipe(train, tmp_path / "run")
    with pytest.raises(RunError, match="2 clips to train on that show what held-out clips show"):
        check_files(recipe, load_corpus(recipe.data))
    assert "training on them is refused" in capsys.readouterr().out


def test_quarantine_is_a_way_out(corpora, tmp_path):
    train, test = corpora
    words = (train, "--against", test, "--out", tmp_path / "out")
    leaks(*words, cache=tmp_path / "cache")
    write_manifest(train, rows(tmp_path, "a.mp4", "b.mp4", "c.mp4"))
    leaks(*words, "--quarantine", cache=tmp_path / "cache")
    listed = {row.clip: row.fault for row in read_quarantine(train)}
    assert listed == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "leak")
    (tmp_path / "train.quarantine.csv").write_text(
        "clip,fault,reason\na.mp4,leak,x\nc.mp4,leak,x\n"
    )
    leaks(*words, "--quarantine", cache=tmp_path / "cache")  # what is there stays
    assert {row.clip for row in read_quarantine(train)} == {"a.mp4", "b.mp4", "c.mp4"}


def test_splits_of_one_manifest_are_compared_and_groups_in_two_splits_told(corpora, tmp_path):
    both = tmp_path / "both.csv"
    divided = [
        Segment(tmp_path, "c.mp4", 0, 6, "c", "train"),
        Segment(tmp_path, "c.mp4", 6, 12, "c", "test"),
    ]
    write_manifest(
        both,
        [
            *rows(tmp_path, "a.mp4", "b.mp4", "b_copy.mp4"),
            *rows(tmp_path, "a_copy.mp4", split="test"),
            *divided,
        ],
    )
    leaks(both, "--out", tmp_path / "out", cache=tmp_path / "cache")
    kinds = {(leak.clip, leak.against): leak.kind for leak in read_leaks(both)}
    assert kinds == {
        ("a.mp4", "a_copy.mp4"): "near", ("a_copy.mp4", "a.mp4"): "near",
        ("c.mp4[0:6]", "c.mp4[6:12]"): "group", ("c.mp4[6:12]", "c.mp4[0:6]"): "group",
    }  # fmt: skip
    with (tmp_path / "out" / "leaks.csv").open(newline="") as file:
        pairs = {(row["clip"], row["against"]) for row in csv.DictReader(file)}
    assert ("b.mp4", "b_copy.mp4") in pairs  # a duplicate within train: told, not refused
    with pytest.raises(RunError, match=r"a\.mp4 and a_copy\.mp4"):
        refuse_leaks(both, rows(tmp_path, "a.mp4", "b.mp4"))
    refuse_leaks(both, rows(tmp_path, "b.mp4", "b_copy.mp4"))
    refuse_leaks(both, [*rows(tmp_path, "a.mp4", "a_copy.mp4")])  # all of it is trained on


def test_an_accepted_leak_is_let_pass_and_stays_accepted(tmp_path):
    manifest = tmp_path / "clips.csv"
    leak = Leak("a.mp4", "b.mp4", "/other.csv", "near", 0.9, splits="train/test")
    other = Leak("c.mp4", "b.mp4", "/other.csv", "near", 0.85, splits="train/test")
    write_leaks(manifest, [leak, other])
    segments = rows(tmp_path, "a.mp4", "c.mp4")
    assert [one.clip for one in known_leaks(manifest, segments)] == ["a.mp4", "c.mp4"]
    text = leaks_file(manifest).read_text().splitlines()
    leaks_file(manifest).write_text("\n".join([text[0], text[1] + "yes", text[2]]) + "\n")
    assert [one.clip for one in known_leaks(manifest, segments)] == ["c.mp4"]
    write_leaks(manifest, [leak, other])
    assert [one.accepted for one in read_leaks(manifest)] == ["yes", ""]


def test_no_list_is_no_leak_and_a_malformed_one_is_refused(tmp_path):
    manifest = tmp_path / "clips.csv"
    refuse_leaks(manifest, rows(tmp_path, "a.mp4"))
    write_leaks(manifest, [Leak("a.mp4", "b.mp4", "", "near")])
    whole = leaks_file(manifest).read_text()
    for broken in (whole.replace("1.000", "high"), whole.rstrip() + "perhaps\n", "a,b\n1,2\n"):
        leaks_file(manifest).write_text(broken)
        with pytest.raises(ManifestError, match=r"clips\.leaks\.csv"):
            refuse_leaks(manifest, rows(tmp_path, "a.mp4"))


def test_one_manifest_on_both_sides_is_refused(corpora, capsys):
    train, _ = corpora
    with pytest.raises(SystemExit):
        main(["corpus", "leaks", str(train), "--against", str(train)])
    assert "leave --against away" in capsys.readouterr().err


def test_stills_are_found_in_films(tmp_path, films):
    write_h264(tmp_path / "film.mp4", films[0], 18, 15)
    write_frames(tmp_path / "still", films[0][6:7])
    write_frames(tmp_path / "other", films[1][6:7])
    write_manifest(tmp_path / "films.csv", rows(tmp_path, "film.mp4"))
    write_manifest(tmp_path / "stills.csv", rows(tmp_path, "still", "other"))
    out = ("--against", tmp_path / "stills.csv", "--out", tmp_path / "out")
    leaks(tmp_path / "films.csv", *out, cache=tmp_path / "cache")
    assert [(leak.against, leak.kind) for leak in read_leaks(tmp_path / "films.csv")] == [
        ("still", "near")
    ]
