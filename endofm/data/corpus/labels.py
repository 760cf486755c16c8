"""Label files in the forms that downloads have: VOC, COCO, YOLO, JSON, tables of any dialect."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from endofm.data.corpus.source import Box
from endofm.data.corpus.tree import Member
from endofm.errors import CorpusError


def read_table(member: Member, delimiters: str = ",;\t") -> list[dict[str, str]]:
    """Rows of a table with a header: commas, semicolons or tabs, with or without a BOM.

    Names and values come without spaces around them. Raises `CorpusError` for a row with more or
    fewer values than the header.
    """
    text = _text(member)
    header = text.split("\n", 1)[0]
    delimiter = max(delimiters, key=header.count)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if not rows:
        raise CorpusError(f"{member} is empty; fetch it again.")
    names = [name.strip() for name in rows[0]]
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not any(value.strip() for value in row):
            continue
        if len(row) != len(names):
            raise CorpusError(
                f"{member}, line {number} has {len(row)} values for {len(names)} columns; mend it."
            )
        found.append({name: value.strip() for name, value in zip(names, row, strict=True)})
    return found


def read_numbers(member: Member) -> list[list[float]]:
    """Lines of numbers divided by spaces, tabs, commas or semicolons; empty lines are left out."""
    found = []
    for number, line in enumerate(_text(member).splitlines(), 1):
        if parts := [part for part in re.split(r"[\s,;]+", line.strip()) if part]:
            found.append(numbers(member, number, parts))
    return found


def read_json(member: Member) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(_text(member))
    except ValueError as error:
        raise CorpusError(f"{member} is not whole JSON ({error}); fetch it again.") from error


def read_voc(member: Member) -> tuple[list[Box], Mapping[str, str]]:
    """Boxes of a VOC file, and the texts of its top elements (`folder`, `filename`, `path`).

    VOC counts pixels from 1, so one is taken off.
    """
    try:
        root = ElementTree.fromstring(member.read_bytes())
    except ElementTree.ParseError as error:
        raise CorpusError(f"{member} is not whole XML ({error}); fetch it again.") from error
    boxes = []
    for item in root.iter("object"):
        corners = [item.findtext(f"bndbox/{name}", "") for name in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = (value - 1 for value in numbers(member, 0, corners))
        boxes.append(Box(x1, y1, x2, y2, (item.findtext("name") or "").strip()))
    return boxes, {child.tag: (child.text or "").strip() for child in root if not len(child)}


def read_yolo(member: Member, size: tuple[int, int], classes: Sequence[str] = ()) -> list[Box]:
    """Boxes of a YOLO file (`class cx cy w h` as shares) in a frame of that height and width."""
    height, width = size
    boxes = []
    for row in read_numbers(member):
        if len(row) != 5 or not all(0 <= value <= 1 for value in row[1:]):
            raise CorpusError(
                f"{member} has a row {row}; YOLO rows are a class and four shares from 0 to 1."
            )
        kind, x, y, across, down = row
        if classes and not 0 <= int(kind) < len(classes):
            raise CorpusError(
                f"{member} has the class {int(kind)}, but there are {len(classes)} classes."
            )
        left, top = (x - across / 2) * width, (y - down / 2) * height
        label = classes[int(kind)] if classes else ""
        boxes.append(Box(left, top, left + across * width - 1, top + down * height - 1, label))
    return boxes


def read_coco(member: Member) -> dict[str, list[Box]]:
    """Boxes by the pictures' file names; COCO's boxes are x, y, width, height from 0.

    A picture without an annotation has an empty list.
    """
    content = read_json(member)
    annotations = content.get("annotations", content.get("annotation"))
    if annotations is None or "images" not in content:
        raise CorpusError(f"{member} is not COCO: it needs 'images' and 'annotations'.")
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", ())}
    found: dict[str, list[Box]] = {name: [] for name in names.values()}
    for row in annotations:
        image = row.get("image_id", row.get("id"))
        if image not in names:
            raise CorpusError(f"{member} has a box of the picture {image}, which it does not list.")
        x, y, width, height = numbers(member, 0, row["bbox"])
        label = kinds.get(row.get("category_id"), "")
        found[names[image]].append(Box(x, y, x + width - 1, y + height - 1, label))
    return found


def numbers(member: Member, line: int, parts: Iterable[Any]) -> list[float]:
    """Texts as numbers; raises `CorpusError` naming the place."""
    parts = list(parts)
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError) as error:
        where = f"{member}, line {line}" if line else str(member)
        raise CorpusError(
            f"{where} has {parts} where numbers are due; mend or delete it."
        ) from error


def known(member: Member | str, what: str, value: str, values: Iterable[str]) -> str:
    """`value`, if it is one of `values`; raises `CorpusError` otherwise."""
    values = list(values)
    if value not in values:
        raise CorpusError(
            f"{member} has the {what} '{value}', which is none of {', '.join(values)}; is it "
            "another version of the dataset?"
        )
    return value


def _text(member: Member) -> str:
    return member.read_text().replace("\r\n", "\n").replace("\r", "\n")
