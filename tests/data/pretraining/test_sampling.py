import numpy as np
import pytest

from endofm.data.pretraining.sampling import (
    center_indices,
    even_indices,
    global_indices,
    local_indices,
)


def test_a_clip_of_150_frames_gives_the_released_global_indices():
    first, second = global_indices(150, (8, 16))
    assert first == [0, 20, 41, 62, 82, 103, 124, 145]
    assert second[:3] == [5, 14, 24] and second[-2:] == [140, 149]  # 150 is clamped to the last
    assert len(second) == 16


def test_released_indices_are_those_of_a_truncated_linspace():
    for length in (21, 30, 97, 150, 151):
        for view, (start, stop, count) in zip(
            global_indices(length, (8, 16)), [(0, length - 5, 8), (5, length, 16)], strict=True
        ):
            exact = [start + (stop - start) * k / (count - 1) for k in range(count)]
            assert view == [min(int(x + 1e-9), length - 1) for x in exact]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 20])
def test_short_clips_give_indices_that_exist_and_globals_that_span_them(length):
    rng = np.random.default_rng(0)
    views = global_indices(length, (8, 16)) + local_indices(length, (2, 4, 16), rng)
    assert all(0 <= index < length for view in views for index in view)
    if length > 2:
        assert all(len(set(view)) > 1 for view in views[:2])


def test_exact_mode_keeps_the_released_shift_on_short_clips():
    assert set(global_indices(5, (8, 16), exact=True)[0]) == {0}
    assert global_indices(150, (8, 16), exact=True) == global_indices(150, (8, 16))


def test_local_views_stay_in_a_window_of_an_eighth_at_random_places():
    rng = np.random.default_rng(1)
    views = local_indices(160, (16,) * 300, rng)
    assert all(max(view) - min(view) <= 20 and view == sorted(view) for view in views)
    starts = [view[0] for view in views]
    assert min(starts) < 10 and 125 < max(starts) < 140 and 55 < np.mean(starts) < 85


def test_one_view_takes_any_number_of_frames_and_one_frame_too():
    assert even_indices(0, 9, 1, 10) == [0]
    assert global_indices(10, (4,)) == [[0, 3, 6, 9]]
    assert [view[0] for view in global_indices(150, (2, 2, 2))] == [0, 2, 5]


def test_centre_indices_spread_over_the_clip():
    assert center_indices(8, 4) == [1, 3, 5, 7]
    assert center_indices(2, 4) == [0, 0, 1, 1]
    assert center_indices(1, 2) == [0, 0]
