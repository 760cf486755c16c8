import cv2
import numpy as np
import pytest

from endofm.data.checks.fingerprint import SIDE
from endofm.data.leakage import index
from endofm.data.leakage.index import Clips
from endofm.data.leakage.match import Hit, best_alignment, compare, fit
from endofm.data.leakage.pictures import WHOLE, Crop, agreement, cropped, detail
from endofm.data.leakage.search import search
from tests.leaks.scale import made_up


def clips(pictures, groups=None, step=8):
    groups = groups or range(len(pictures))
    return Clips(list(groups), [step] * len(pictures), lambda number: pictures[number])


def pairs(found):
    return {(one.first, one.second) for one in found.duplicates}


@pytest.fixture(scope="module")
def films():
    return [made_up(number) for number in range(12)]


def test_detail_does_not_depend_on_brightness_and_shading(films):
    one = films[0][:4]
    shaded = (one * np.linspace(0.7, 1, SIDE)).astype(np.uint8)
    for other in ((one * 0.85).astype(np.uint8), shaded):
        assert np.diag(agreement(detail(one), detail(other))).min() > 0.85
    apart = agreement(detail(one), detail(np.concatenate([film[:4] for film in films[1:]])))
    assert apart.max() < 0.75


def test_the_border_of_an_endoscope_is_no_detail():
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    border = np.hypot(rows, columns) < 14
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(0, 60, (2, SIDE, SIDE)).transpose(1, 2, 0), (0, 0), 1.5)
    pictures = np.clip((120 + 3 * noise.transpose(2, 0, 1)) * border, 0, 255).astype(np.uint8)
    (alike,) = agreement(detail(pictures[:1]), detail(pictures[1:]))[0]
    assert alike < 0.5


def test_fitting_finds_the_part_that_a_copy_shows():
    big = cv2.resize(made_up(3)[0], (320, 320), interpolation=cv2.INTER_CUBIC)
    part = cv2.resize(big[22:310, 4:292], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(big, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    crop = fit(whole, detail(part[None]), Crop(0.9, 0.033, 0.033))
    assert crop.side == pytest.approx(0.9, abs=0.03)
    assert (crop.top, crop.left) == pytest.approx((22 / 320, 4 / 320), abs=0.03)
    found = agreement(detail(cropped(whole[None], crop)), detail(part[None]))
    assert found[0, 0] > 0.9


def test_alignment_follows_the_best_rising_pairs():
    gains = np.zeros((5, 4))
    gains[[1, 2, 4], [0, 1, 3]] = 1
    gains[0, 3] = 2.5  # stronger than any one of them, but alone
    assert best_alignment(gains).tolist() == [[1, 0], [2, 1], [4, 3]]
    assert best_alignment(np.zeros((3, 2))).shape == (0, 2)


def test_changed_copies_are_found_and_others_are_not(films):
    copies = [
        films[1][4:12, :, ::-1],
        np.clip(films[2] * 1.15, 0, 255).astype(np.uint8),
        made_up(500),
        np.round(cropped(films[4], Crop(0.9, 0.05, 0.1))).astype(np.uint8),
    ]
    found = search(clips(films), clips(copies, range(100, 104)))
    assert pairs(found) == {(1, 0), (2, 1), (4, 3)}
    by_second = {one.second: one.match for one in found.duplicates}
    assert by_second[0].is_mirrored and by_second[0].first == (4, 11)
    assert by_second[1].crop == WHOLE and by_second[1].num_shared == 16
    assert by_second[3].crop.side == pytest.approx(0.9, abs=0.04)


def test_a_copy_is_found_whichever_side_was_cropped(films):
    small = [np.round(cropped(films[4], Crop(0.9, 0.0, 0.1))).astype(np.uint8)]
    assert pairs(search(clips(small), clips(films, range(100, 112)))) == {(0, 4)}
    assert pairs(search(clips([*films, *small]))) == {(4, 12)}


def test_clips_of_one_group_are_not_compared(films):
    doubled = [films[0], films[1], films[0]]
    assert pairs(search(clips(doubled, [0, 1, 2]))) == {(0, 2)}
    assert pairs(search(clips(doubled, [0, 1, 0]))) == set()


def test_single_pictures_are_found_in_films(films):
    assert pairs(search(clips(films), clips([films[5][9:10]], [100]))) == {(5, 0)}


def test_pictures_without_detail_are_like_nothing():
    black = [np.zeros((5, SIDE, SIDE), np.uint8), np.full((5, SIDE, SIDE), 200, np.uint8)]
    films = [made_up(0)]
    assert pairs(search(clips([*black, *black, *films]))) == set()


def test_a_screen_that_very_many_clips_show_is_told_and_not_compared(monkeypatch):
    screens = [made_up(0)[:1]] * 12
    assert len(pairs(search(clips(screens[:4])))) == 6
    monkeypatch.setattr(index, "MAX_SHARING", 5)
    found = search(clips(screens))
    assert found.num_screens > 0 and found.num_compared == 0


def test_pictures_that_are_far_apart_share_nothing(films):
    assert compare(films[0], films[1], Hit(0, 0, WHOLE, False)) is None
