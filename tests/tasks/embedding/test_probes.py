from pathlib import Path

import numpy as np
import pytest

from endofm.data.manifests.manifest import Segment
from endofm.errors import ManifestError
from endofm.tasks.embedding.probes import probe_scores


def clips(first, count):
    return [
        Segment(Path(), f"{n}.mp4", group=f"{n}", labels={"side": "ab"[n % 2]})
        for n in range(first, first + count)
    ]


def test_probes_score_features_that_know_a_label_above_those_that_do_not():
    rng = np.random.default_rng(0)
    train, test = clips(0, 40), clips(40, 40)
    noise = rng.normal(size=(80, 8))
    knows = noise + np.where(np.arange(80) % 2, 3.0, -3.0)[:, None]
    kinds = {"knows": (knows[:40], knows[40:]), "noise": (noise[:40], noise[40:])}
    rows = probe_scores(kinds, train, test, ["side"], seed=3)
    assert len(rows) == 6 and {row["seed"] for row in rows} == {3}
    assert all((row["score"] > 0.7) == (row["features"] == "knows") for row in rows)


def test_a_group_in_both_splits_is_refused():
    with pytest.raises(ManifestError, match="group 0 is in both splits"):
        probe_scores({}, clips(0, 4), clips(0, 2), ["side"], seed=0)
