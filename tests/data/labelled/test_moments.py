from itertools import pairwise

import numpy as np
import pytest

from endofm.data.labelled.moments import (
    around,
    cover,
    draw_run,
    draw_spread,
    run,
    spaced_run,
    spread,
)
from endofm.data.pretraining.sampling import center_indices


def test_the_only_spread_clip_is_the_centre_clip():
    for length in (1, 3, 8, 50):
        assert spread(length, 4) == center_indices(length, 4)


def test_several_spread_clips_interlace():
    assert [spread(16, 4, number, 2) for number in range(2)] == [[1, 5, 9, 13], [3, 7, 11, 15]]


def test_random_spreads_keep_their_spacing_and_stay_inside():
    rng = np.random.default_rng(0)
    for _ in range(50):
        indices = draw_spread(40, 4, rng)
        assert all(b - a == 10 for a, b in pairwise(indices))
        assert min(indices) >= 0 and max(indices) < 40


def test_runs_repeat_the_last_frame_where_the_clip_is_over():
    assert run(0, 4, 32, 80) == [0, 32, 64, 79]
    assert around(1, 4, 2, 100) == [0, 0, 1, 3]
    rng = np.random.default_rng(0)
    assert all(draw_run(10, 4, 3, rng) == [0, 3, 6, 9] for _ in range(5))
    assert [spaced_run(20, 2, 2, n, 3)[0] for n in range(3)] == [0, 8, 17]
    assert spaced_run(1, 4, 2, 0, 1) == [0, 0, 0, 0]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 16, 30])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_cover_shows_every_frame_and_never_one_outside(length, stride):
    runs = cover(length, 4, stride)
    assert {index for one in runs for index in one} == set(range(length))
    assert all(len(one) == 4 for one in runs)
    assert len(runs) <= stride * -(-length // (4 * stride))
