import csv
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from endofm.data.corpus.adapters import ADAPTERS
from endofm.data.corpus.adapters.cvc_clinicdb import (
    LEGACY_LEAKING,
    SEQUENCES,
    TEST_SEQUENCES,
)
from endofm.data.corpus.cards import cards_folder, read_card
from endofm.data.manifests.manifest import COLUMNS, Segment, write_manifest
from endofm.errors import CorpusError

FOLDER = Path(__file__).parents[2] / "data_manifests"
SPLITS = sorted((FOLDER / "splits").glob("*.csv"))


def schema(name):
    return json.loads((FOLDER / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))


def rows(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_adapter_has_a_card_and_every_card_an_adapter():
    assert {file.stem for file in (FOLDER / "cards").glob("*.yaml")} == set(ADAPTERS)
    assert cards_folder() == FOLDER / "cards"


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_cards_keep_to_their_schema_and_agree_with_the_adapter(name):
    text = (FOLDER / "cards" / f"{name}.yaml").read_text(encoding="utf-8")
    card = yaml.safe_load(text)
    jsonschema.validate(card, schema("card"))
    assert card["name"] == name and all(len(line) <= 400 for line in text.splitlines())
    counts = {count["what"]: count["value"] for count in card["counts"]}
    assert ADAPTERS[name].expected.items() <= counts.items()
    assert read_card(name).licence == card["licence"]["name"]


def test_a_card_that_is_none_is_told(tmp_path):
    with pytest.raises(CorpusError, match=r"There is no card .*cholec80"):
        read_card("nothing")
    (tmp_path / "x.yaml").write_text("name: x\n")
    with pytest.raises(CorpusError, match=r"x.yaml is no card"):
        read_card("x", tmp_path)


def test_rows_of_manifests_keep_to_their_schema(tmp_path):
    row = schema("row")
    assert set(row["properties"]) == set(COLUMNS)
    segment = Segment(tmp_path, "a b/c.mp4", 0, 9, "g", "train", {"polyp": "yes"}, "m/0", "b.csv")
    write_manifest(tmp_path / "m.csv", [segment])
    for found in rows(tmp_path / "m.csv"):
        jsonschema.validate(found, row)
    for wrong in ("/a.mp4", "a/../../b.mp4", "C:\\a.mp4", "..", ""):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"path": wrong}, row)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"path": "a", "lable_polyp": "x"}, row)


@pytest.mark.parametrize(
    "file", [f for f in SPLITS if "legacy" not in f.name], ids=lambda f: f.stem
)
def test_clean_split_lists_put_each_group_into_one_split(file):
    groups = [row["group"] for row in rows(file)]
    assert len(groups) == len(set(groups)) > 0
    assert {row["split"] for row in rows(file)} <= {"train", "val", "test"}


def test_every_cholect45_video_is_tested_once():
    tested = [
        row["group"]
        for fold in range(1, 6)
        for row in rows(FOLDER / f"splits/cholect45_fold{fold}.csv")
        if row["split"] == "test"
    ]
    assert len(tested) == len(set(tested)) == 45


def frames(part):
    for row in rows(FOLDER / f"splits/cvc_clinicdb_legacy_leaking_{part}.csv"):
        first = int(row["first_frame"])
        yield from range(first, first + int(row["num_frames"]))


def test_the_legacy_lists_leak_as_their_name_says_and_the_clean_one_does_not():
    train, test = set(frames("train")), list(frames("test"))
    assert len(test) == 171 and sum(frame in train for frame in test) == 121
    clean = {
        row["group"]: row["split"] for row in rows(FOLDER / "splits/cvc_clinicdb_by_sequence.csv")
    }
    wanted = {number for number, split in enumerate(clean.values(), 1) if split == "test"}
    assert wanted == set(TEST_SEQUENCES) and len(clean) == len(SEQUENCES) == 29
    covered = {i for i in range(1, 613) for a, b in SEQUENCES if a <= i < b}
    assert covered == set(range(1, 613))
    holding = {n for n, (a, b) in enumerate(SEQUENCES, 1) if any(a <= frame < b for frame in test)}
    assert holding == wanted


def test_the_adapter_has_the_legacy_lists_as_they_are():
    for part, ranges in LEGACY_LEAKING.items():
        found = rows(FOLDER / f"splits/cvc_clinicdb_legacy_leaking_{part}.csv")
        assert [(int(r["first_frame"]), int(r["num_frames"])) for r in found] == list(ranges)
