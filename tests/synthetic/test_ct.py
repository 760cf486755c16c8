"""Synthetic chest CT: reproducible, with a CT's values, and lesions that single slices mix up."""

from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import label

from endofm.cli import main
from endofm.data.manifests.manifest import read_manifest
from endofm.data.video import open_video
from endofm.errors import ConfigError
from endofm.synthetic.chest import Grid, draw_chest, lungs
from endofm.synthetic.ct import CtSpec, make_volume, plan_volume, write_volumes
from endofm.synthetic.lesions import KINDS, LOOKS, paint_lesions

SMALL = CtSpec(num_volumes=2, num_slices=16, pixels=32)


def painted(kind: str, seed: int) -> np.ndarray:
    """Where the first lesions of a kind are, bool [S, P, P], in lungs without vessels."""
    rng = np.random.default_rng(seed)
    grid = Grid(48, 64)
    chest = draw_chest(rng)
    share = lungs(grid, chest)
    grid.units[:] = -900
    paint_lesions(grid, chest, share, kind, rng)
    return grid.units > -500


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part."""
    parts, _ = label(mask, np.ones((3,) * mask.ndim))
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def height(mask: np.ndarray) -> int:
    """Slices that the largest part crosses."""
    return int(largest(mask).any(axis=(1, 2)).sum())


def middle_slice(mask: np.ndarray) -> np.ndarray:
    """The largest part where it crosses most."""
    part = largest(mask)
    return part[int(part.any(axis=(1, 2)).nonzero()[0].mean())]


def is_hollow(plane: np.ndarray) -> bool:
    """Whether the background inside a slice falls into several parts."""
    return label(~plane)[1] > 1


def test_a_pair_is_alike_in_a_slice_and_unlike_in_several():
    seeds = range(3)
    for short, long in (("nodule", "plug"), ("cavity", "bronchiectasis")):
        one, other = ([painted(kind, seed) for seed in seeds] for kind in (short, long))
        assert max(map(height, one)) < min(map(height, other))
        areas = [np.mean([middle_slice(mask).sum() for mask in masks]) for masks in (one, other)]
        assert 0.6 < areas[0] / areas[1] < 1.67
        hollow = {is_hollow(middle_slice(mask)) for mask in (*one, *other)}
        assert hollow == {LOOKS[short] == "ring"}
    apart, joined = ([painted(kind, seed) for seed in seeds] for kind in ("miliary", "tree_in_bud"))

    def dots(masks):  # parts in the slice that has most
        return np.mean([max(label(plane)[1] for plane in mask) for mask in masks])

    assert 0.5 < dots(apart) / dots(joined) < 2
    size_of_parts = [np.mean([mask.sum() / label(mask)[1] for mask in m]) for m in (apart, joined)]
    assert size_of_parts[1] > 2 * size_of_parts[0]


def test_values_are_those_of_a_chest():
    units, spacing = make_volume("nodule", 0, 24, 64)
    assert units.shape == (24, 64, 64) and units.dtype == np.int16
    assert spacing == pytest.approx((256 / 24, 340 / 64, 340 / 64))
    inside = units[:, 16:48, 16:48]
    assert 0.05 < ((units > -950) & (units < -700)).mean() < 0.3  # lung
    assert 0.1 < ((inside > -50) & (inside < 150)).mean() < 0.8  # soft tissue
    assert 0.005 < (units > 250).mean() < 0.1  # bone
    assert units[:, 0].max() < -800  # air around
    heights = ((units > -950) & (units < -700)).mean(axis=(1, 2))
    assert heights[12] > 2 * heights[0]  # the lungs end above the lowest slice


def test_the_same_seed_gives_the_same_volume_and_another_another():
    first, _ = make_volume("cavity", [0, 0, 1], 16, 32)
    again, _ = make_volume("cavity", [0, 0, 1], 16, 32)
    other, _ = make_volume("cavity", [1, 0, 1], 16, 32)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_every_kind_is_in_both_splits_and_equally_often():
    plans = [plan_volume(CtSpec(), index) for index in range(60)]
    assert Counter(plan.kind for plan in plans) == dict.fromkeys(KINDS, 10)
    of_test = Counter(plan.kind for plan in plans if plan.split == "test")
    assert set(of_test) == set(KINDS) and sum(of_test.values()) == 15
    assert plans[:12] == [plan_volume(CtSpec(num_volumes=12), index) for index in range(12)]


def test_a_corpus_is_read_as_it_was_made_and_goes_on_where_it_was(tmp_path, capsys):
    manifest = write_volumes(tmp_path / "ct", SMALL)
    rows = read_manifest(manifest)
    plans = [plan_volume(SMALL, index) for index in range(2)]
    assert [(row.labels["lesion"], row.split, row.num_frames) for row in rows] == [
        (plan.kind, plan.split, 16) for plan in plans
    ]
    units, spacing = make_volume(plans[1].kind, [0, 0, 1], 16, 32)
    with open_video(rows[1].file) as volume:
        assert volume.spacing == pytest.approx(spacing, rel=1e-5)
        assert np.array_equal(np.stack([volume.slice_of(k) for k in range(16)]), units)
    kept = rows[0].file.read_bytes()
    rows[0].file.unlink()
    size = ["--num-volumes", "2", "--num-slices", "16", "--pixels", "32"]
    main(["synthetic-ct", str(tmp_path / "ct"), *size])
    assert "2 volumes are in" in capsys.readouterr().out
    assert rows[0].file.read_bytes() == kept


def test_what_cannot_be_made_is_refused(tmp_path):
    write_volumes(tmp_path / "ct", SMALL)
    with pytest.raises(ConfigError, match=r"another spec \(seed 0 instead of 1"):
        write_volumes(tmp_path / "ct", CtSpec(2, 16, 32, seed=1))
    for values, says in (
        ({"num_volumes": 0}, "num_volumes is 0"),
        ({"pixels": 16}, "32 slices of 16 pixels"),
        ({"num_slices": 4}, "4 slices of 64 pixels"),
        ({"test_share": 2.0}, "test_share 2.0"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ConfigError, match=says):
            CtSpec(**values)
