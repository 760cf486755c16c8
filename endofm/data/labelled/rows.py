"""The rows of a labelled corpus, checked before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from endofm.data.labelled.annotations import check_annotations, read_boxes, read_masks
from endofm.data.labelled.clips import clip_length
from endofm.data.labelled.samples import CLASSIFICATION, DETECTION, Kind, LabelledConfig
from endofm.data.leakage import refuse_leaks
from endofm.data.manifests.labels import check_trained, find_classes, truth_of
from endofm.data.manifests.manifest import Segment, read_manifest
from endofm.data.manifests.quarantine import without_quarantined
from endofm.data.manifests.splits import Splits, split_rows
from endofm.data.pretraining.dataset import find_missing
from endofm.errors import ConfigError, ManifestError, RunError

DEFAULT_CLASSES = {"segmentation": ("background", "object"), "detection": ("object",)}


def load_rows(
    config: LabelledConfig, kind: Kind, legacy: bool, draws: bool = False
) -> tuple[Splits, int]:
    """The splits of all manifests, without quarantined rows (how many: the number).

    With `legacy` groups may be shared and the test rows are the validation rows too; with `draws`
    all rows are training rows, for every seed to draw from. Raises
    `ConfigError` without a manifest, `ManifestError` for rows that can't be used together,
    `RunError` for leaks that a list beside a manifest names.
    """
    if not config.manifests:
        raise ConfigError(
            "data.manifests is empty; `endofm manifest FOLDER clips.csv` makes one from a folder "
            "of videos: write splits and labels into it, then give --data.manifests clips.csv."
        )
    rows: list[Segment] = []
    dropped = 0
    for manifest in config.manifests:
        kept, quarantined = without_quarantined(manifest, read_manifest(manifest, config.root))
        rows, dropped = rows + kept, dropped + len(quarantined)
    if legacy:
        parts = {name: tuple(r for r in rows if r.split == name) for name in ("train", "test")}
        if not all(parts.values()):
            raise ManifestError("A legacy protocol needs rows of the splits train and test.")
        cut = "the test rows choose the checkpoint too (legacy protocol)"
        return Splits(parts["train"], parts["test"], parts["test"], cut), dropped
    _refuse_twice(rows)
    if draws:
        for split in sorted({row.split for row in rows}):  # what leaks from split to split does so
            for manifest in config.manifests:  # from draw to draw
                refuse_leaks(manifest, [row for row in rows if row.split == split])
        return Splits(tuple(rows), (), ()), dropped

    def kind_of(row: Segment) -> object:
        return row.labels.get(config.label, "") if kind in CLASSIFICATION else ""

    splits = split_rows(rows, config.val_share, kind_of)
    for manifest in config.manifests:
        refuse_leaks(manifest, splits.train)
    return splits, dropped


def check_rows(splits: Splits, config: LabelledConfig, kind: Kind) -> tuple[str, ...]:
    """Look at every label, mask folder and box before the start; the names of the classes.

    Raises `ManifestError` or `VideoError` for what can't be learned from or judged, a class that no
    training row has among it.
    """
    classes = check_labels(splits.all, config, kind)
    if kind in CLASSIFICATION:
        several = kind == "multi_label"
        check_trained([truth_of(s, config.label, classes, several) for s in splits.train], classes)
        return classes
    shown, column = (_boxed, "boxes") if kind in DETECTION else (_masked, "masks")
    seen = shown(splits.train, classes)
    absent = [name for number, name in enumerate(classes) if number not in seen]
    if absent:
        raise ManifestError(
            f"No training row shows {', '.join(absent)} in its {column}, so a network can't learn "
            "it; add such rows, or leave the class out of data.classes."
        )
    return classes


def check_labels(rows: Sequence[Segment], config: LabelledConfig, kind: Kind) -> tuple[str, ...]:
    """The names of the classes, once every row has been held against them."""
    if kind in CLASSIFICATION:
        if not config.label:
            raise ConfigError("data.label is empty; name the label's column, without its `label_`.")
        return find_classes(rows, config.label, config.classes, kind == "multi_label")
    classes = config.classes or DEFAULT_CLASSES[kind.removeprefix("video_")]
    column = "boxes" if kind in DETECTION else "masks"
    if column == "masks" and len(classes) < 2:
        raise ConfigError(
            f"data.classes names {len(classes)} class ({', '.join(classes)}); for segmentation "
            "name the background first, and one more."
        )
    bare = [segment for segment in rows if not getattr(segment, column)]
    if bare:
        raise ManifestError(
            f"{len(bare)} of {len(rows)} rows have nothing in the column '{column}', the first is "
            f"{bare[0].name}; fill it in, or take the rows out of the splits."
        )
    for segment in rows:
        only = replace(segment, masks="") if column == "boxes" else replace(segment, boxes="")
        check_annotations(only, len(classes), classes)
    return classes


def check_files(splits: Splits, max_broken_share: float) -> int:
    """Look for every file; how many training rows have none.

    Raises `RunError` beyond the share, and for any row of validation or test: a score over the rest
    would not be the split's.
    """
    refuse_missing((*splits.val, *splits.test))
    missing = find_missing(splits.train, min_frames=1)
    if len(missing) > max_broken_share * len(splits.train):
        raise RunError(
            f"{len(missing)} of {len(splits.train)} training rows can't be used, more than "
            f"data.max_broken_share ({max_broken_share}) allows; the first: {missing[0].reason}"
        )
    return len(missing)


def refuse_missing(judged: Sequence[Segment]) -> None:
    """Raise `RunError` for rows to be judged whose file is absent."""
    missing = find_missing(judged, min_frames=1)
    if missing:
        raise RunError(
            f"{len(missing)} of {len(judged)} rows can't be judged; the first: {missing[0].reason}"
        )


def _refuse_twice(rows: Sequence[Segment]) -> None:
    """Across manifests; within one, reading has done it."""
    roots: dict[str, object] = {}
    for row in rows:
        if roots.setdefault(row.path, row.root) != row.root:
            raise ManifestError(
                f"Two manifests have a file {row.path}, below {roots[row.path]} and {row.root}; "
                "results go by the path: merge them below one root under different names."
            )
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f"Two manifests have the clip {twice}; leave it in one of them.")


def _boxed(rows: Sequence[Segment], classes: Sequence[str]) -> set[int]:
    seen: set[int] = set()
    for row in rows:
        for boxes in read_boxes(row, range(clip_length(row)), classes):
            seen |= set(boxes.classes.tolist())
        if len(seen) == len(classes):
            break
    return seen


def _masked(rows: Sequence[Segment], classes: Sequence[str]) -> set[int]:
    """First the middle of every row, then its other frames, until every class has been seen."""
    seen: set[int] = set()
    lengths = [clip_length(row) for row in rows]
    orders = [np.argsort(np.abs(np.arange(n) - n // 2), kind="stable").tolist() for n in lengths]
    for indices in zip_longest(*orders):
        for row, index in zip(rows, indices, strict=True):
            if index is not None:
                mask = read_masks(row, [index], len(classes))
                seen |= set(np.unique(mask).tolist())
            if set(range(len(classes))) <= seen:
                return seen
    return seen
