"""Colonoscopic (Mesejo et al. 2016): short videos of lesions in white and narrow-band light."""

import re
from collections.abc import Iterator

from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.tree import Tree

_LESION = re.compile(r"(adenoma|hyperplas[it]c|hyperplastic|serrated)_?(\d+)", re.IGNORECASE)
_LIGHT = re.compile(r"(?<![A-Za-z])(WL|NBI)(?![A-Za-z])", re.IGNORECASE)
_KINDS = {"a": "adenoma", "h": "hyperplastic", "s": "serrated"}
_LIGHTS = {"WL": "white light", "NBI": "narrow-band"}


def find(tree: Tree) -> Iterator[Source] | None:
    """Videos named after a lesion, in folders or by themselves."""
    matches = [(name, _LESION.findall(name)) for name in tree.videos()]
    found = [(name, lesions[-1]) for name, lesions in matches if lesions]
    return (_source(tree, name, *lesion) for name, lesion in found) if found else None


def _source(tree: Tree, name: str, kind: str, number: str) -> Source:
    lesion = _KINDS[kind[0].lower()]
    labels = {"lesion": lesion}
    if light := _LIGHT.findall(name):
        labels["light"] = _LIGHTS[light[-1].upper()]
    group = f"colonoscopic/{lesion}_{int(number):02d}"
    return Source(name, video=tree[name], group=group, labels=labels)


COLONOSCOPIC = Adapter(
    "colonoscopic",
    "Adenoma/adenoma_01/videos/WL.mp4 and NBI.mp4, and so on for Hyperplasic and Serrated",
    find,
    {"videos": 76},
)
