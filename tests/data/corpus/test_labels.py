import pytest

from endofm.data.corpus import labels
from endofm.data.corpus.source import Box
from endofm.data.corpus.tree import Member
from endofm.errors import CorpusError
from tests.data.corpus.originals import voc


def file(tmp_path, text, name="labels.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Member(path)


@pytest.mark.parametrize(
    "text", ["a,b\n1,x\n\n2,y\n", "\ufeffa;b\r\n1; x\r\n2;y", "a\tb\n1\tx\n2\ty\n"]
)
def test_tables_of_any_dialect_say_the_same(tmp_path, text):
    rows = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    assert labels.read_table(file(tmp_path, text)) == rows


def test_a_ragged_table_is_named_with_its_line(tmp_path):
    with pytest.raises(CorpusError, match=r"labels.txt, line 3 has 1 values for 2 columns"):
        labels.read_table(file(tmp_path, "a,b\n1,2\n3\n"))
    with pytest.raises(CorpusError, match="is not UTF-8 text"):
        labels.read_table(file(tmp_path, b"a,b\n\xff\xfe,1\n"))


def test_voc_counts_from_one(tmp_path):
    boxes, about = labels.read_voc(file(tmp_path, voc([(1, 2, 10, 20, "polyp")], "/d/v/1.jpg")))
    assert boxes == [Box(0, 1, 9, 19, "polyp")] and about["path"] == "/d/v/1.jpg"
    with pytest.raises(CorpusError, match="not whole XML"):
        labels.read_voc(file(tmp_path, "<annotation><object>"))


def test_yolo_shares_become_inclusive_corners(tmp_path):
    member = file(tmp_path, "0 0.5 0.5 0.5 0.25\n")
    assert labels.read_yolo(member, (100, 200), ("polyp",)) == [Box(50, 37.5, 149, 61.5, "polyp")]
    with pytest.raises(CorpusError, match="four shares from 0 to 1"):
        labels.read_yolo(file(tmp_path, "0 12 5 3 3\n"), (100, 200))
    with pytest.raises(CorpusError, match="class 2, but there are 1 classes"):
        labels.read_yolo(file(tmp_path, "2 0.5 0.5 0.1 0.1\n"), (100, 200), ("polyp",))


def test_coco_boxes_go_by_file_name(tmp_path):
    text = """{"images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "polyp"}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [2, 3, 4, 5]}]}"""
    assert labels.read_coco(file(tmp_path, text)) == {
        "a.png": [Box(2, 3, 5, 7, "polyp")],
        "b.png": [],
    }
    with pytest.raises(CorpusError, match="box of the picture 9, which it does not list"):
        labels.read_coco(file(tmp_path, text.replace('"image_id": 7', '"image_id": 9')))
    with pytest.raises(CorpusError, match="not whole JSON"):
        labels.read_coco(file(tmp_path, text[:50]))


def test_numbers_that_are_none_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"line 2 has .* where numbers are due"):
        labels.read_numbers(file(tmp_path, "1\n2 x 3 4\n"))
