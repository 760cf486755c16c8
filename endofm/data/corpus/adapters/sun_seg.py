"""SUN-SEG (Ji et al. 2022): clips of SUN with a mask for every frame."""

import re
from collections.abc import Iterator

from endofm.data.corpus.adapters.common import by_stem, masks_of, members
from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.tree import Tree
from endofm.errors import CorpusError

_SPLITS = {
    "TrainDataset": "train",
    "TestEasyDataset": "test_easy",
    "TestHardDataset": "test_hard",
}
_PARTS = ("", "Seen/", "Unseen/")
_LESIONS = {
    "low_grade_adenoma",
    "high_grade_adenoma",
    "hyperplastic_polyp",
    "traditional_serrated_adenoma",
    "sessile_serrated_lesion",
    "invasive_carcinoma",
    "invasive_cancer",
}


def find(tree: Tree) -> Iterator[Source] | None:
    """The splits' `Frame` folders beside their `GT` folders."""
    base = next((b for b in map(tree.base, _SPLITS) if b is not None), None)
    if base is None:
        return None
    if not any("/Frame/" in name for name in tree.pictures(base.rstrip("/"))):
        raise CorpusError(
            f"{tree.root} has the annotations of SUN-SEG but no folder Frame; SUN's frames must be "
            "moved there first (docs/DATA_PREPARATION.md of GewelsJI/VPS, step 3)."
        )
    return _sources(tree, base)


def _sources(tree: Tree, base: str) -> Iterator[Source]:
    for folder, split in _SPLITS.items():
        lesions = _lesions(tree, f"{base}{folder}")
        for part in _PARTS:
            root = f"{base}{folder}/{part}"
            for frames, names in tree.folders_of_pictures(f"{root}Frame").items():
                clip = frames.rpartition("/")[2]
                name = f"{split}{'_' + part[:-1].lower() if part else ''}/{clip}"
                masks = by_stem(tree, tree.pictures(f"{root}GT/{clip}"))
                labels = {"polyp": "polyp"}
                if found := {lesions[stem] for stem in _stems(names) if stem in lesions}:
                    labels["lesion"] = ";".join(sorted(found))
                yield Source(
                    name,
                    pictures=members(tree, names),
                    fps=30.0,
                    group=f"sun/positive/{re.sub(r'_.*', '', clip)}",
                    split=name.split("/")[0],
                    labels=labels,
                    masks=masks_of(tree, name, names, masks),
                )


def _stems(names: list[str]) -> list[str]:
    return [name.rpartition("/")[2].rpartition(".")[0] for name in names]


def _lesions(tree: Tree, folder: str) -> dict[str, str]:
    """Stem of a picture -> its lesion, from the split's classification.txt."""
    found: dict[str, str] = {}
    for name in tree.names(folder, {".txt"}):
        if not name.lower().endswith("classification.txt"):
            continue
        for number, line in enumerate(tree[name].read_text().splitlines(), 1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != 2 or parts[1] not in _LESIONS:
                raise CorpusError(
                    f"{tree[name]}, line {number} is '{line.strip()}', but a picture and one of "
                    f"{', '.join(sorted(_LESIONS))} are due; is it another version of SUN-SEG?"
                )
            found[parts[0].rpartition("/")[2].rpartition(".")[0] or parts[0]] = parts[1]
    return found


SUN_SEG = Adapter(
    "sun_seg",
    "TrainDataset/Frame/case1_1/*.jpg with TrainDataset/GT/case1_1/*.png, and the same in "
    "TestEasyDataset and TestHardDataset (directly, or in Seen and Unseen)",
    find,
    {"frames": 49_136},
)
