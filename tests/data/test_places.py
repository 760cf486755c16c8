import json
import shutil

import pytest

from endofm.data.corpus.merge import merge
from endofm.data.corpus.prepare import Job, prepare
from endofm.data.corpus.source import Source
from endofm.data.places import is_below, leads_out
from endofm.errors import CorpusError
from tests.data.corpus.originals import own, picture, voc, write_tree

OUT = ("..", "../a", "a/../../b", "/a", "\\a", "..\\a", "a\\..\\..\\b", "C:a", "C:\\a", "a\0b")


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_is_no_source(name, tmp_path):
    assert leads_out(name) and not is_below(tmp_path, name)
    with pytest.raises(CorpusError, match="leads out of its folder"):
        Source(name)


def test_a_name_that_stays_below_is_taken(tmp_path):
    for name in ("a", "a/b.mp4", "a..b", "...", "train/case 1", "./a"):
        assert not leads_out(name) and is_below(tmp_path, name)
        assert Source(name).name == name
    for none in ("", "."):
        assert not is_below(tmp_path, none)
        with pytest.raises(CorpusError):
            Source(none)


def test_a_link_that_leads_out_is_seen(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/far").symlink_to(tmp_path)
    assert not is_below(tmp_path / "in", "far/a")


@pytest.mark.parametrize("place", ["folder", "path"])
def test_an_annotation_moves_no_clip_and_deletes_no_folder_outside(tmp_path, place):
    victim = write_tree(tmp_path / "victim", {"thesis.txt": "years of work"})
    outside = "../" * 4 + "victim"
    name = "train2019/Annotation/1.xml"
    for content in (1, 2):  # the second run sees other pictures, and forgets what the first wrote
        text = voc([(1, 1, 9, 9, "adenoma")], path=outside if place == "path" else "")
        if place == "folder":
            text = text.replace("<filename>", f"<folder>{outside}</folder><filename>")
        pictures = picture(content) + b" " * content
        write_tree(tmp_path / "in", {name: text, "train2019/Image/1.png": pictures})
        prepare(Job("kumc", tmp_path / "in", tmp_path / "a/b/out", allow_partial=True))
    assert (victim / "thesis.txt").read_text() == "years of work"
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert written == {"victim", "in", "a"} and not list(victim.rglob("*.png"))


def corpus(tmp_path):
    write_tree(tmp_path / "in", {"a/b/1.png": picture(1), "a/b/2.png": picture(2)})
    job = own(tmp_path / "in", tmp_path / "out", options={"codec": "png"})
    prepare(job)
    return job


def test_a_folder_of_clips_that_was_made_a_link_is_not_emptied(tmp_path):
    job = corpus(tmp_path)
    shutil.move(job.out / "clips/a", tmp_path / "victim")
    (job.out / "clips/a").symlink_to(tmp_path / "victim")
    before = sorted(tmp_path.joinpath("victim").rglob("*"))
    write_tree(tmp_path / "in", {"a/b/1.png": picture(3) + b" "})
    with pytest.raises(CorpusError, match="by a link"):
        prepare(job)
    assert sorted(tmp_path.joinpath("victim").rglob("*")) == before


@pytest.mark.parametrize("name", ["../victim.txt", "clips/../../victim.txt", "manifest.csv"])
def test_a_record_can_not_have_a_file_outside_deleted(tmp_path, name):
    job = corpus(tmp_path)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    file = job.out / "records/part.jsonl"
    record = json.loads(file.read_text())
    record["clips"][0]["files"][name] = "0" * 64
    file.write_text(json.dumps(record) + "\n")
    with pytest.raises(CorpusError, match=r"part.jsonl names the file .*outside"):
        merge(job.out)
    assert victim.read_text() == "mine" and (job.out / "manifest.csv").is_file()
