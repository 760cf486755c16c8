"""The page of a corpus: what is in it, under which terms, and what to mind."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from endofm.data.checks.fingerprint import Fingerprint
from endofm.data.corpus.cards import Card, read_card
from endofm.data.leakage import leaks_file, read_leaks
from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.quarantine import quarantine_file, read_quarantine
from endofm.data.video import read_segment
from endofm.errors import CorpusError, VideoError
from endofm.report.html import Bold, Heading, Picture, Section, Table, Text, write_page
from endofm.report.views import Image

THUMB, GAP, COLUMNS = 132, 4, 8
SHEET_CLIPS = 40
"""Clips of a manifest that its contact sheet shows, spread evenly over it."""
_MANY_VALUES = 40


@dataclass(frozen=True)
class Source:
    """One manifest: its rows, what decoding them told (`None`: can't be decoded), and its card."""

    manifest: Path
    segments: Sequence[Segment]
    told: Sequence[Fingerprint | None]
    card: Card | None

    @property
    def name(self) -> str:
        """How the page calls it."""
        return str(self.manifest) if self.card is None else self.card.title

    @property
    def usable(self) -> list[tuple[Segment, Fingerprint]]:
        """Clips that can be decoded."""
        pairs = zip(self.segments, self.told, strict=True)
        return [(segment, told) for segment, told in pairs if told is not None]


def card_of(manifest: Path, cards: Path | None = None) -> Card | None:
    """The card of the dataset that `endofm corpus prepare` made a manifest from, if it did."""
    note = manifest.parent / "corpus.json"
    if not note.is_file():
        return None
    try:
        name = json.loads(note.read_text(encoding="utf-8")).get("dataset")
    except (ValueError, AttributeError) as error:
        raise CorpusError(f"{note} is damaged ({error}); prepare the corpus again.") from error
    return None if name is None else read_card(name, cards)


def corpus_page(path: Path, sources: Sequence[Source]) -> Path:
    """Write the page as one HTML file. Raises `RunError` where it can't be written."""
    sections: list[Section] = [_overview(sources), *_warnings(sources), Heading("Sources")]
    sections += [_terms(sources), *_pitfalls(sources), Heading("Splits and labels")]
    sections += [_splits(sources), *_labels(sources), Heading("Frames")]
    sections += _shapes(sources)
    sections.append(Heading("Contact sheets"))
    sections += [_sheet(source) for source in sources if source.usable]
    return write_page(path, "Corpus", sections)


def _overview(sources: Sequence[Source]) -> Table:
    rows = [[source.name, *_numbers(source)] for source in sources]
    if len(sources) > 1:
        totals = [_numbers(source) for source in sources]
        summed = [f"{sum(_number(row[at]) for row in totals):,.6g}" for at in range(5)]
        rows.append([Bold("together"), *summed])
    columns = ("", "clips", "files", "groups", "frames", "hours")
    unknown = sum(math.isnan(told.fps) for source in sources for _, told in source.usable)
    note = f"Nothing tells the rate of {unknown:,} clips; they count no hours." if unknown else ""
    return Table("What is in it", columns, rows, note)


def _numbers(source: Source) -> list[str]:
    hours = sum(
        told.num_frames / told.fps / 3600 for _, told in source.usable if not math.isnan(told.fps)
    )
    counts = (
        len(source.segments),
        len({segment.path for segment in source.segments}),
        len({segment.group for segment in source.segments}),
        sum(told.num_frames for _, told in source.usable),
    )
    return [*(f"{count:,}" for count in counts), f"{hours:.2f}"]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _warnings(sources: Sequence[Source]) -> list[Section]:
    """What is wrong, as far as `check` and `leaks` have said."""
    rows = []
    for source in sources:
        faults = Counter(row.fault for row in read_quarantine(source.manifest))
        checked = quarantine_file(source.manifest).is_file()
        for fault, count in sorted(faults.items()):
            rows.append([source.name, f"{count:,} clips in quarantine: {fault}"])
        broken = sum(told is None for told in source.told)
        if broken and not checked:
            rows.append(
                [source.name, f"{broken:,} clips can't be decoded; run endofm corpus check"]
            )
        leaks = [leak for leak in read_leaks(source.manifest) if not leak.accepted]
        if leaks:
            many = f"{len(leaks):,} known leaks, in {leaks_file(source.manifest).name}"
            rows.append([source.name, many])
        rows += [[source.name, sentence] for sentence in _doubts(source)]
    if not rows:
        return [Text("No warnings. Whether leaks were looked for, the page can't tell.")]
    return [Table("Warnings", ("", "what"), rows)]


def _doubts(source: Source) -> Iterable[str]:
    splits = defaultdict(set)
    for segment in source.segments:
        splits[segment.group].add(segment.split)
    divided = sum(len(found) > 1 for found in splits.values())
    if divided:
        yield f"{divided:,} groups lie in more than one split"
    if source.card is None:
        yield "licence not known: the manifest was not made by endofm corpus prepare"
    elif source.card.commercial_use != "yes":
        yield f"commercial use: {source.card.commercial_use} ({source.card.licence})"
    for label in sorted({name for segment in source.segments for name in segment.labels}):
        empty = sum(not segment.labels.get(label) for segment in source.segments)
        if 0 < empty < len(source.segments):
            yield f"{empty:,} of {len(source.segments):,} clips have no label_{label}"


def _terms(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        card = source.card
        if card is None:
            rows.append([source.name, "not known", "not known", "not known", "not known", ""])
        else:
            use = card.commercial_use
            told = use if use == "yes" else Bold(use)
            rows.append(
                [source.name, card.organ, card.procedure, f"{card.licence}: {card.terms}", told,
                 card.address]
            )  # fmt: skip
    columns = ("", "organ", "procedure", "licence and terms", "commercial use", "from")
    return Table("Sources and their terms", columns, rows)


def _pitfalls(sources: Sequence[Source]) -> list[Section]:
    rows = [
        [source.name, pitfall]
        for source in sources
        if source.card is not None
        for pitfall in source.card.pitfalls
    ]
    return [Table("What to mind", ("", "pitfall"), rows)] if rows else []


def _splits(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        for split in sorted({segment.split for segment in source.segments}):
            among = [segment for segment in source.segments if segment.split == split]
            groups = len({segment.group for segment in among})
            rows.append([source.name, split or "(none)", f"{len(among):,}", f"{groups:,}"])
    return Table("Splits", ("", "split", "clips", "groups"), rows)


def _labels(sources: Sequence[Source]) -> Iterable[Section]:
    """For each label, how many clips of each split have each value."""
    segments = [segment for source in sources for segment in source.segments]
    splits = sorted({segment.split for segment in segments})
    for label in sorted({name for segment in segments for name in segment.labels}):
        counts: Counter[tuple[str, str]] = Counter()
        for segment in segments:
            for value in segment.labels.get(label, "").split(";"):
                counts[value, segment.split] += 1
        totals: Counter[str] = Counter()
        for (value, _), count in counts.items():
            totals[value] += count
        rows = []
        for value, total in totals.most_common(_MANY_VALUES):
            share = f"{total / len(segments):.1%}"
            each = [f"{counts[value, split]:,}" for split in splits]
            rows.append([value or "(none)", f"{total:,}", share, *each])
        more = len(totals) - len(rows)
        note = f"{more:,} rarer values are not listed." if more > 0 else ""
        names = [split or "(no split)" for split in splits]
        columns = ("value", "clips", "share", *names)
        yield Table(f"label_{label}", columns, rows, note)


def _shapes(sources: Sequence[Source]) -> list[Section]:
    told = [told for source in sources for _, told in source.usable]
    lengths = [one.num_frames for one in told]
    tables: list[Section] = [
        _counted("Size (width x height)", told, lambda one: f"{one.size[1]} x {one.size[0]}"),
        _counted(
            "Frames a second",
            told,
            lambda one: "not told" if math.isnan(one.fps) else f"{one.fps:.4g}",
        ),
    ]
    if lengths:
        low, middle, high = np.percentile(lengths, [5, 50, 95])
        tables.append(
            Text(
                f"A clip has {min(lengths):,} to {max(lengths):,} frames, in the middle "
                f"{middle:,.0f}; nine in ten have {low:,.0f} to {high:,.0f}."
            )
        )
    return tables


def _counted(title: str, told: Sequence[Fingerprint], name: Callable[[Fingerprint], str]) -> Table:
    counts = Counter(name(one) for one in told)
    rows = [[value, f"{count:,}"] for value, count in counts.most_common(_MANY_VALUES)]
    more = len(counts) - len(rows)
    note = f"{more:,} rarer values are not listed." if more > 0 else ""
    return Table(title, ("", "clips"), rows, note)


def _sheet(source: Source) -> Picture:
    """The middle frames of clips spread over a manifest."""
    usable = source.usable
    chosen = np.linspace(0, len(usable) - 1, min(SHEET_CLIPS, len(usable))).round().astype(int)
    frames = []
    for number in chosen:
        try:
            frames.append(_middle(usable[number][0]))
        except VideoError:  # changed since it was decoded; `check` tells
            frames.append(np.full((THUMB, THUMB, 3), 128, np.uint8))
    rows = [frames[at : at + COLUMNS] for at in range(0, len(frames), COLUMNS)]
    width = max(sum(frame.shape[1] + GAP for frame in row) for row in rows)
    strips = []
    for row in rows:
        strip = np.concatenate([np.pad(f, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
                                for f in row], 1)  # fmt: skip
        padding = ((0, 0), (0, width - strip.shape[1]), (0, 0))
        strips.append(np.pad(strip, padding, constant_values=255))
    caption = f"{source.name}: middle frames of {len(frames)} of {len(source.segments):,} clips"
    return Picture(caption, np.concatenate(strips))


def _middle(segment: Segment) -> Image:
    frames, _ = read_segment(segment, lambda length: [length // 2], short_side=2 * THUMB)
    height, width = frames.shape[1:3]
    wide = min(2 * THUMB, max(THUMB // 2, round(width * THUMB / height)))
    return np.asarray(cv2.resize(frames[0], (wide, THUMB), interpolation=cv2.INTER_AREA))
