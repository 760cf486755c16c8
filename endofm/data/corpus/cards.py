"""Cards of source datasets: what they are, under which terms, and what to mind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from endofm.errors import CorpusError


@dataclass(frozen=True)
class Card:
    """One card of `data_manifests/cards`; see its schema there."""

    name: str
    title: str
    citation: str
    """Text and DOI or address."""
    licence: str
    terms: str
    commercial_use: str
    """`yes`, `no`, `with permission` or `not known`."""
    address: str
    organ: str
    procedure: str
    pitfalls: tuple[str, ...]


def cards_folder() -> Path:
    """Where the cards lie: in the installed package, or in the checkout that it runs from."""
    package = Path(__file__).parents[2]
    installed, checkout = package / "data_manifests", package.parent / "data_manifests"
    folder = (installed if installed.is_dir() else checkout) / "cards"
    if not folder.is_dir():
        raise CorpusError(
            f"The cards of the datasets are not at {folder}; give the folder data_manifests of the "
            "repository."
        )
    return folder


def read_card(name: str, folder: Path | None = None) -> Card:
    """The card of a dataset; raises `CorpusError` where there is none or it is malformed."""
    file = (folder or cards_folder()) / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise CorpusError(f"There is no card {file}; there are {known or 'none at all'}.")
    try:
        content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        citation, licence = content["citation"], content["licence"]
        source = citation.get("doi") or citation["url"]
        return Card(
            name=content["name"],
            title=content["title"],
            citation=f"{citation['text'].strip()} {source}",
            licence=licence["name"],
            terms=licence["terms"],
            commercial_use=licence["commercial_use"],
            address=content["address"],
            organ=content["organ"],
            procedure=content["procedure"],
            pitfalls=tuple(content["pitfalls"]),
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{file} is no card ({error}); see schemas/card.schema.json.") from error
