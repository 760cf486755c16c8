"""The bank of certainties by hand, and real worker processes that see what it has learned."""

import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from endofm.data.labelled import selective
from endofm.data.labelled.samples import ClipSpec, LabelledConfig, join
from endofm.data.labelled.selective import (
    Asked,
    SegmentBank,
    SelectedClips,
    SelectivePlan,
    Slots,
    cut_rows,
    lag_of,
)
from endofm.data.manifests.manifest import Segment
from endofm.data.pretraining.dataset import Corpus
from endofm.data.pretraining.loader import make_loader
from endofm.errors import ConfigError, RunError
from tests.make import write_video

STEPS = 26


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four videos of 50 frames: three slots each, the last of ten frames."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(4):
        write_video(folder / f"{number}.mp4", 50, size=(32, 48))
        rows.append(Segment(folder, f"{number}.mp4", 0, None, f"{number}", labels={"kind": "a"}))
    return Corpus((tuple(rows),), (1.0,))


@pytest.fixture
def always_by_the_bank(monkeypatch):
    """No random epochs, no random choices."""
    monkeypatch.setattr(selective, "RANDOM_EPOCHS", 0)
    monkeypatch.setattr(selective, "RANDOM_SHARE", 0.0)


def bank_of(corpus, policy="most_certain", lag=0, seed=0):
    slots = cut_rows(corpus.parts[0])
    return SegmentBank(corpus, slots, policy, seed, lag)


def batches_of(corpus, bank, workers, first=0, accumulate=1):
    clip_spec = ClipSpec(
        "classification", ("a",), LabelledConfig(label="kind", stride=2, segments="random"), 3, 32
    )
    clips = SelectedClips(corpus, clip_spec, 0, bank.slots)
    plan = SelectivePlan(2, accumulate, 0, 1, bank=bank)
    return make_loader(clips, plan, first, STEPS, workers, False, join)


def name_of(corpus, row):
    return corpus.parts[0][row].name


def test_rows_are_cut_in_parts_of_twenty_frames(corpus):
    slots = Slots({"long": 50, "even": 40, "short": 7})
    assert slots.of_rows == {"long": range(3), "even": range(3, 5), "short": range(5, 6)}
    assert [slots.frames("long", slot, 50) for slot in range(3)] == [
        range(20), range(20, 40), range(40, 50),
    ]  # fmt: skip
    assert slots.frames("even", 4, 40) == range(20, 40) and slots.frames("short", 5, 7) == range(7)
    assert cut_rows(corpus.parts[0]).total == 12


def test_a_file_that_can_not_be_opened_is_one_part_until_it_is_read(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    slots = cut_rows([Segment(tmp_path, "bad.mp4", 0, None, "g")])
    assert slots.total == 1


def test_certainties_move_by_three_tenths(corpus):
    bank = bank_of(corpus)
    bank.learn([(1, 1.0), (4, 0.5)])
    bank.learn([(1, 0.0), (1, 1.0)])  # twice in one step, as rare classes are
    assert bank.values[0] == -0.1
    first = 0.7 * -0.1 + 0.3
    assert bank.values[1] == pytest.approx(0.7 * 0.7 * first + 0.3)
    assert bank.values[4] == pytest.approx(0.7 * -0.1 + 0.15)


@pytest.mark.parametrize(("policy", "wanted"), [("most_certain", 1), ("least_certain", 2)])
def test_after_the_random_epochs_most_clips_are_of_the_wanted_part(corpus, policy, wanted):
    bank = bank_of(corpus, policy)
    for row in range(4):
        bank.learn([(3 * row, 0.5), (3 * row + 1, 0.9), (3 * row + 2, -0.5)])
    early = [bank.choose(4, position) % 3 for position in range(20)]
    later = [bank.choose(4, position) % 3 for position in range(20, 1520)]
    assert set(early) == {0, 1, 2} and Counter(early)[wanted] < 14
    share = Counter(later)[wanted] / 1500
    assert share == pytest.approx(0.8 + 0.2 / 3, abs=0.03)
    anywhere = bank_of(corpus, "random")
    even = Counter(anywhere.choose(4, position) % 3 for position in range(20, 1520))
    assert all(count / 1500 == pytest.approx(1 / 3, abs=0.04) for count in even.values())


def test_parts_that_were_never_seen_are_the_least_certain_and_share_the_choice(
    corpus, always_by_the_bank
):
    bank = bank_of(corpus, "least_certain")
    bank.learn([(3 * row, 0.1) for row in range(4)])
    assert {bank.choose(1, position) % 3 for position in range(60)} == {1, 2}


def test_a_choice_is_of_the_row_at_its_position_and_the_same_every_time(corpus):
    one, other = bank_of(corpus), bank_of(corpus)
    for bank in (one, other):
        bank.learn([(slot, slot / 12) for slot in range(12)])
    for position in range(60):
        place = one.order.at(position)
        slot = one.choose(1, position)
        assert slot in one.slots.of_rows[name_of(corpus, place.row)]
        assert slot == other.choose(1, position) == one.choose(1, position)
    assert any(
        bank_of(corpus, seed=1).choose(0, position) != bank_of(corpus).choose(0, position)
        for position in range(20)
    )


def test_a_position_with_its_slot_travels_to_another_process():
    back = pickle.loads(pickle.dumps([Asked(7, 3)]))
    assert back == [7] and back[0].slot == 3
    assert np.random.default_rng((0, Asked(7, 3), 1)).random() == (
        np.random.default_rng((0, 7, 1)).random()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_see_what_was_learned_after_they_started(corpus, always_by_the_bank, workers):
    """Real processes, started before the bank knew anything."""
    bank = bank_of(corpus, lag=lag_of(workers))
    batches = batches_of(corpus, bank, workers)
    middles = []
    try:
        for step in range(20):
            batch = next(batches)
            middles.append([indices[1] for indices in batch.indices])
            if step == 0:
                assert len(multiprocessing.active_children()) == workers
            bank.learn([(3 * row + 1, 1.0) for row in range(4)] if step == 5 else [])
    finally:
        batches.close()
    before = [middle for step in middles[: 6 + bank.lag] for middle in step]
    after = [middle for step in middles[6 + bank.lag :] for middle in step]
    assert any(middle < 20 or middle >= 40 for middle in before)
    assert after and all(20 <= middle < 40 for middle in after)


def train(corpus, workers, lag, stop=None, bank=None, accumulate=1):
    """Steps in which certainty hangs on the frames shown; what was shown, and the bank."""
    bank = bank or bank_of(corpus, lag=lag)
    batches = batches_of(corpus, bank, workers, bank.steps, accumulate)
    shown = []
    try:
        while bank.steps < (stop or STEPS):
            micro = [next(batches) for _ in range(accumulate)]
            shown += [indices for batch in micro for indices in batch.indices]
            told = [
                (n, i[1] / 50) for b in micro for n, i in zip(b.numbers, b.indices, strict=True)
            ]
            bank.learn(told)
    finally:
        batches.close()
    return shown, bank


def test_how_many_processes_read_changes_nothing_but_the_lag(corpus, monkeypatch):
    monkeypatch.setattr(selective, "RANDOM_EPOCHS", 1)
    alone, bank = train(corpus, 0, lag=4)
    assert train(corpus, 2, lag=4)[0] == train(corpus, 1, lag=4)[0] == alone
    assert not np.array_equal(bank.values, bank_of(corpus).values)
    assert train(corpus, 0, lag=0)[0] != alone  # else the lag would be nothing to test


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_stopped_goes_on_with_the_same_clips(corpus, monkeypatch, tmp_path, accumulate):
    monkeypatch.setattr(selective, "RANDOM_EPOCHS", 1)
    whole, _ = train(corpus, 2, lag=4, accumulate=accumulate)
    start, bank = train(corpus, 2, lag=4, stop=17, accumulate=accumulate)
    torch.save(bank.state_dict(), tmp_path / "state.pt")
    fresh = bank_of(corpus, lag=4)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest, _ = train(corpus, 2, lag=4, bank=fresh, accumulate=accumulate)
    assert start + rest == whole


def test_a_clip_in_the_place_of_a_broken_one_is_of_a_part_of_its_own_row(corpus):
    bank = bank_of(corpus)
    clip_spec = ClipSpec("classification", ("a",), LabelledConfig(label="kind", stride=2), 3, 32)
    clips = SelectedClips(corpus, clip_spec, 0, bank.slots)
    position = next(p for p in range(9) if clips.order.at(p).row != 0)
    broken = name_of(corpus, clips.order.at(position).row)
    clips.left_out[broken] = "a test"
    sample = clips[Asked(position, bank.choose(0, position))]
    assert sample.broken[0].name == broken and sample.segment.name != broken
    assert sample.number in bank.slots.of_rows[sample.segment.name]


def test_what_does_not_fit_is_refused(corpus):
    bank, other = bank_of(corpus), bank_of(corpus)
    state = {**bank.state_dict(), "values": torch.zeros(5)}
    with pytest.raises(RunError, match="had 5 parts of 20 frames, and these have 12"):
        other.load_state_dict(state)
    with pytest.raises(RunError, match="more than 0 ahead"):
        bank.choose(7, 50)
    with pytest.raises(ConfigError, match="give a stride of 1 or more"):
        LabelledConfig(segments="random")
