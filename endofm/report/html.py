"""A page in one HTML file: sections as small dataclasses; it needs no network and no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from endofm.errors import RunError
from endofm.report.views import Image

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
    """Write sections as one HTML file, there whole or not at all; returns its path.

    All text is escaped. Raises `RunError` where it can't be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    body = "\n".join(_section(section) for section in sections)
    page = TEMPLATE.format(title=escape(title), style=STYLE, body=body)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error.strerror}); give a place that is writable and has "
            "space."
        ) from error
    return path


def _section(section: Section) -> str:
    match section:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Text(text):
            return _paragraphs(text)
        case Picture(caption, image):
            shown = image if isinstance(image, str) else _pixels(image, caption)
            return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"
        case Table():
            return _table(section)
        case Listing(caption, text):
            return (
                f"<details><summary>{escape(caption)}</summary><pre>{escape(text)}</pre></details>"
            )


def _paragraphs(text: str) -> str:
    blocks = [block.strip() for block in text.split("\n\n")]
    return "".join(f"<p>{escape(block)}</p>" for block in blocks if block)


def _pixels(image: Image, caption: str) -> str:
    options = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    _, encoded = cv2.imencode(".webp", np.ascontiguousarray(image[..., ::-1]), options)
    data = base64.b64encode(encoded.tobytes()).decode()
    height, width = image.shape[:2]
    return (
        f'<img alt="{escape(caption)}" width="{width}" height="{height}" '
        f'src="data:image/webp;base64,{data}">'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "\n".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    return (
        f'<div class="table"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
        f'<div class="note">{_paragraphs(table.note)}</div>'
    )


def _cells(row: Sequence[str]) -> str:
    name, *values = row
    cells = "".join(f"<td>{_cell(value)}</td>" for value in values)
    return f'<th scope="row">{_cell(name)}</th>{cells}'


def _cell(value: str) -> str:
    return f"<strong>{escape(value)}</strong>" if isinstance(value, Bold) else escape(value)


STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5c6670; --line: #dfe3e7;
  --paper: #ffffff; --tint: #f4f6f8; --accent: #00658f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #9aa5af; --line: #343b42;
  --paper: #15191d; --tint: #1e2429; --accent: #6cc3ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .5rem 0 .9rem; overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; padding: 8px;
  border: 1px solid var(--line); border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 48rem; margin-top: .5rem; }
.note { margin-top: .8rem; }
.note p { margin: .35rem 0; max-width: 48rem; }
.table { overflow-x: auto; margin-top: 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .5rem; }
th, td { padding: .4rem 1.4rem .4rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; min-width: 9rem; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
strong { color: var(--accent); }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--tint); border-radius: 6px; padding: 1rem; overflow-x: auto;
  font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { details { display: block; } figure, table { break-inside: avoid; } }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
