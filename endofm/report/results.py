"""What frozen features know, as a table over seeds and sentences that follow from its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from endofm.metrics.representation import Score
from endofm.report.html import Bold, Table

OURS, BASELINE = "pretrained", "untrained"
SAME = 5e-4
"""Scores closer than half of the last digit shown are called equal."""


Scores = dict[int, float]  # by seed


def results_table(rows: Sequence[Score], chance: Mapping[str, float] | None = None) -> Table:
    """Mean and, in brackets, lowest and highest over seeds, in percent; each column's best is bold.

    `chance` has each label's. The note says per label and method whether pretrained features beat
    untrained ones, in the mean and in every seed that both have. Raises `ValueError` for a score
    that comes twice.
    """
    kinds, columns = _names(row["features"] for row in rows), _columns(rows)
    cells = {kind: [_scores(rows, kind, *column) for column in columns] for kind in kinds}
    best = [
        max(fmean(cells[kind][number].values()) for kind in kinds if cells[kind][number])
        for number in range(len(columns))
    ]
    body = [[kind, *map(_cell, cells[kind], best)] for kind in kinds]
    if chance:
        known = [chance.get(label) for label, _ in columns]
        body.append(["chance", *("–" if one is None else _percent(one) for one in known)])
    sentences = [
        _verdict(f"{label}, {method}", {kind: cells[kind][number] for kind in kinds}, chance, label)
        for number, (label, method) in enumerate(columns)
    ]
    return Table(
        "Balanced accuracy in percent: mean over seeds (lowest to highest)",
        ["features", *(f"{label}, {method}" for label, method in columns)],
        body,
        "\n\n".join(sentences),
    )


def _names(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _columns(rows: Sequence[Score]) -> list[tuple[str, str]]:
    """Every (label, method), those of one label together, in the order they come."""
    labels = _names(row["label"] for row in rows)
    pairs = dict.fromkeys((row["label"], row["method"]) for row in rows)
    return sorted(pairs, key=lambda pair: labels.index(pair[0]))


def _scores(rows: Sequence[Score], features: str, label: str, method: str) -> Scores:
    found: Scores = {}
    for row in rows:
        if (row["features"], row["label"], row["method"]) == (features, label, method):
            if row["seed"] in found:
                raise ValueError(f"{features}, {label}, {method}: seed {row['seed']} comes twice.")
            found[row["seed"]] = row["score"]
    return found


def _cell(scores: Scores, best: float) -> str:
    if not scores:
        return "–"
    mean, values = fmean(scores.values()), scores.values()
    text = _percent(mean)
    if len(values) > 1:
        text += f" ({_percent(min(values))} to {_percent(max(values))})"
    return Bold(text) if mean > best - SAME else text


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _verdict(
    where: str, scores: Mapping[str, Scores], chance: Mapping[str, float] | None, label: str
) -> str:
    """What the numbers of one column say, and no more."""
    ours, baseline = scores.get(OURS, {}), scores.get(BASELINE, {})
    if not ours or not baseline:
        missing = OURS if not ours else BASELINE
        return f"{where}: there are no {missing} features, so nothing is compared."
    words = f"{where}: {_in_mean(ours, baseline)}{_in_seeds(ours, baseline)}."
    mean = fmean(ours.values())
    others = {kind: fmean(v.values()) for kind, v in scores.items() if v and kind != OURS}
    ahead = [k for k, other in others.items() if k != BASELINE and other > mean - SAME]
    for kind in ahead:
        how = "as high" if others[kind] < mean + SAME else "higher"
        words += f" But {kind} score {how} ({_percent(others[kind])})."
    if chance and label in chance and mean < chance[label] + SAME:
        words += f" Pretrained is not above chance ({_percent(chance[label])})."
    return words


def _in_mean(ours: Scores, baseline: Scores) -> str:
    gain = _gain(ours, baseline)
    if abs(gain) < SAME:
        return f"{OURS} does not beat {BASELINE}; their means are equal"
    if gain > 0:
        return f"{OURS} beats {BASELINE} by {_percent(gain)} points in the mean"
    return f"{OURS} does not beat {BASELINE}; its mean is {_percent(-gain)} points lower"


def _in_seeds(ours: Scores, baseline: Scores) -> str:
    shared = sorted(ours.keys() & baseline.keys())
    which = "" if ours.keys() == baseline.keys() else " that both have"
    if not shared:
        return "; no seed is in both, so none can be compared one by one"
    if len(shared) == 1:
        return f"; it is one seed only{which}, so chance may decide"
    wins = sum(ours[seed] - baseline[seed] >= SAME for seed in shared)
    seeds = f"{len(shared)} seeds{which}"
    if _gain(ours, baseline) < SAME:
        return f", and it is ahead in {wins or 'none'} of {seeds}"
    return f" and in all {seeds}" if wins == len(shared) else f", but in only {wins} of {seeds}"


def _gain(ours: Scores, baseline: Scores) -> float:
    return fmean(ours.values()) - fmean(baseline.values())
