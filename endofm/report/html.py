"""A page in one HTML file: sections as small dataclasses; it needs no network and no other file.

`page.html` and `style.css` beside this file say what it looks like.
"""

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from markupsafe import Markup

from endofm.files import write_text
from endofm.report.views import Image

if TYPE_CHECKING:
    import jinja2

HERE = Path(__file__).parent
WEBP_QUALITY = 92


class Bold(str):
    """Words of a table that stand out."""

    __slots__ = ()


@dataclass(frozen=True)
class Heading:
    """Begins a part of the page."""

    text: str


@dataclass(frozen=True)
class Text:
    """Paragraphs, parted by empty lines."""

    text: str


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 [H, W, 3], or an SVG element of our own (which is not escaped)."""

    caption: str
    image: Image | str


@dataclass(frozen=True)
class Table:
    """Rows of cells under `columns`; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Listing:
    """A file's text, folded away until asked for."""

    caption: str
    text: str


Section = Heading | Text | Picture | Table | Listing


def write_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write sections as one HTML file; returns its path.

    All text is escaped. Raises `OutputError` where it can't be written.
    """
    path = Path(path)
    named = [(type(section).__name__, section) for section in sections]
    write_text(path, _template().render(title=title, style=_style(), sections=named))
    return path


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2  # takes long to import

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"picture": _picture, "is_bold": lambda value: isinstance(value, Bold)}
    return environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))


def _style() -> Markup:
    return Markup((HERE / "style.css").read_text(encoding="utf-8"))


def _picture(picture: Picture) -> Markup:
    if isinstance(picture.image, str):
        return Markup(picture.image)
    options = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    _, encoded = cv2.imencode(".webp", np.ascontiguousarray(picture.image[..., ::-1]), options)
    data = base64.b64encode(encoded.tobytes()).decode()
    height, width = picture.image.shape[:2]
    tag = Markup('<img alt="{}" width="{}" height="{}" src="data:image/webp;base64,{}">')
    return tag.format(picture.caption, width, height, data)
