"""Several manifests as one corpus with weights: a mix is a YAML file, what trains is a recipe.

```yaml
name: endofm
title: ...
sources:                                # each lies at ROOT/<dataset>/manifest.csv, or at `manifest`
  - {dataset: colonoscopic, weight: 1}
  - {dataset: own_folder, manifest: ours/clips.csv, weight: 0.5}
missing:                                # parts that nobody can fetch
  - {what: ..., why: ...}
notes: [...]
```
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from endofm.data.corpus.cards import read_card
from endofm.data.manifests.manifest import read_manifest
from endofm.errors import ConfigError, CorpusError
from endofm.files import write_text


@dataclass(frozen=True)
class MixSource:
    """One manifest of a mix."""

    dataset: str
    manifest: Path
    """Relative to the folder that holds the prepared datasets."""
    weight: float


@dataclass(frozen=True)
class Mix:
    """What a mix file says."""

    name: str
    title: str
    sources: tuple[MixSource, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Mixed:
    """A mix on this disk: what is there, and a sentence for what isn't."""

    manifests: tuple[Path, ...]
    weights: tuple[float, ...]
    num_clips: tuple[int, ...]
    absent: tuple[str, ...]


def read_mix(file: Path) -> Mix:
    """Read and check a mix file. Raises `ConfigError` where it is none."""
    if not file.is_file():
        raise ConfigError(f"There is no mix {file}; data_manifests/mixes/ holds ours.")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML ({' '.join(str(error).split())}).") from error
    known = {"name", "title", "sources", "missing", "notes"}
    if not isinstance(tree, dict) or not tree.get("sources") or not set(tree) <= known:
        raise ConfigError(f"{file} is no mix; it has a list `sources`, and of {sorted(known)}.")
    sources = tuple(_source(file, source) for source in tree["sources"])
    places = [source.manifest for source in sources]
    if len(set(places)) < len(places):
        raise ConfigError(f"{file} names {_repeated(places)} twice; add the weights up.")
    missing = tuple(f"{part['what']}: {part['why']}" for part in tree.get("missing") or ())
    notes = tuple(" ".join(note.split()) for note in tree.get("notes") or ())
    return Mix(tree.get("name", file.stem), tree.get("title", ""), sources, missing, notes)


def find_sources(mix: Mix, root: Path, cards: Path | None = None) -> Mixed:
    """Which sources of a mix lie below `root`; the others are named with where to get them.

    Raises `ManifestError` for one that is there and malformed, `ConfigError` if there is none.
    """
    manifests, weights, clips, absent = [], [], [], []
    for source in mix.sources:
        manifest = root / source.manifest
        if manifest.is_file():
            manifests.append(manifest.absolute())
            weights.append(source.weight)
            clips.append(len(read_manifest(manifest)))
        else:
            absent.append(_absent(source, manifest, cards))
    if not manifests:
        raise ConfigError(f"No source of the mix {mix.name} lies in {root}; the first: {absent[0]}")
    return Mixed(tuple(manifests), tuple(weights), tuple(clips), tuple(absent))


def write_recipe(out: Path, mix: Mix, mixed: Mixed, base: Path | None = None) -> None:
    """Write a recipe of `python -m pretrain` with the mix as its data; `base` supplies the rest.

    The file appears whole or not at all. Raises `ConfigError` for a base that is no recipe.
    """
    tree: dict[str, Any] = {}
    if base is not None:
        if not base.is_file():
            raise ConfigError(f"There is no recipe {base}; pretrain/configs/ holds ours.")
        tree = yaml.safe_load(base.read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or not isinstance(tree.get("data", {}), dict):
            raise ConfigError(f"{base} is no recipe; give one of pretrain/configs/.")
    data = {
        **tree.get("data", {}),
        "manifests": [path.as_posix() for path in mixed.manifests],
        "weights": list(mixed.weights),
    }
    lines = [f"The mix {mix.name}: {mix.title}", *(f"Absent: {one}" for one in mixed.absent)]
    lines += [f"Not to be had: {one}" for one in mix.missing]
    head = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    text = head + yaml.safe_dump({**tree, "data": data}, sort_keys=False, allow_unicode=True)
    write_text(out, text)


def _source(file: Path, tree: Any) -> MixSource:
    if not isinstance(tree, Mapping) or not {"dataset"} <= set(tree) <= {
        "dataset", "manifest", "weight",
    }:  # fmt: skip
        raise ConfigError(f"{file}: a source has dataset, manifest and weight, not {tree}.")
    weight = tree.get("weight", 1)
    if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ConfigError(f"{file}: the weight of {tree['dataset']} is {weight}; give one above 0.")
    manifest = Path(tree.get("manifest") or Path(tree["dataset"]) / "manifest.csv")
    return MixSource(str(tree["dataset"]), manifest, float(weight))


def _absent(source: MixSource, manifest: Path, cards: Path | None) -> str:
    try:
        card = read_card(source.dataset, cards)
    except CorpusError:  # a dataset of the user's own has no card
        return f"{source.dataset} is not at {manifest}."
    return (
        f"{source.dataset} ({card.title}) is not at {manifest}; get it from {card.address} "
        f"({card.licence}), then: endofm corpus prepare --dataset {source.dataset} "
        f"--source DOWNLOAD --out {manifest.parent}"
    )


def _repeated(places: list[Path]) -> Path:
    return next(place for place in places if places.count(place) > 1)
