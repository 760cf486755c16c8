import numpy as np
import pytest

from endofm.data.labelled.references import reference_frames
from endofm.errors import ConfigError


def test_testing_spreads_references_evenly_about_the_key_frame():
    clip = reference_frames(50, 100, 10, reach=9)
    assert clip.indices == (41, 43, 45, 47, 49, 50, 51, 53, 55, 57, 59) and clip.key == 5
    assert clip == reference_frames(50, 100, 10, reach=9)


@pytest.mark.parametrize("key", [0, 1, 50, 98, 99])
def test_training_draws_other_frames_within_reach_in_time_order(key):
    seen = set()
    for seed in range(60):
        clip = reference_frames(key, 100, 2, 9, np.random.default_rng(seed))
        assert list(clip.indices) == sorted(clip.indices) and len(set(clip.indices)) == 3
        assert clip.indices[clip.key] == key
        assert all(abs(index - key) <= 9 and 0 <= index < 100 for index in clip.indices)
        seen |= set(clip.indices)
    assert seen == set(range(max(key - 9, 0), min(key + 9, 99) + 1))


@pytest.mark.parametrize("generator", [None, np.random.default_rng(0)])
def test_short_videos_repeat_frames_and_a_single_frame_is_its_own_reference(generator):
    clip = reference_frames(1, 3, 5, 9, generator)
    assert len(clip.indices) == 6 and set(clip.indices) <= {0, 1, 2}
    assert clip.indices[clip.key] == 1 and clip.indices.count(1) == 1
    assert reference_frames(0, 1, 2, 9, generator).indices == (0, 0, 0)


@pytest.mark.parametrize("asked", [(5, 5, 2), (-1, 5, 2), (0, 5, 0), (0, 5, 2, 0)])
def test_what_cannot_be_is_refused(asked):
    with pytest.raises(ConfigError, match="references"):
        reference_frames(*asked)
