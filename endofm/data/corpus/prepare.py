"""From a download to a corpus of clips, in parallel, in shards, taken up where it was stopped.

```
manifest.csv                   a row a clip: path, frames, group, split, labels, masks, boxes
stretches.csv                  a row for each stretch over which the frames' labels stay the same
boxes.csv                      path, frame, x1, y1, x2, y2, label
clips/<source>/000150.mp4      named by the frame of the source that they begin with
masks/<source>/000150/         a picture for every frame of the clip
corpus.json, plan.json         what the folder is made from
records/, log*.txt             what is finished, and what was left out and why
checksums.txt                  SHA-256 of every file of clips and masks (`sha256sum -c` reads it)
```
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2

from endofm.data.corpus.adapters import find_adapter
from endofm.data.corpus.merge import Plan, make_plan, write_tables
from endofm.data.corpus.records import Record, Records, read_records
from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.space import check_space
from endofm.data.corpus.splits import apply_split_list
from endofm.data.corpus.tree import Tree
from endofm.data.corpus.work import ClipOptions, prepare_source
from endofm.data.places import is_below
from endofm.errors import ConfigError, CorpusError
from endofm.files import PART, new_file

FORMAT = 1  # raise it when the same download and options give other files


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count`; a source belongs to one of them."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no part."""
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"shard is {self.number}/{self.count}; write i/n with i from 1 to n, such as 3/16."
            )

    @property
    def suffix(self) -> str:
        """Distinguishes the files of its own: `-3-of-16`; empty for the whole."""
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Job:
    """What is to be prepared, from where, to where."""

    dataset: str
    source: Path
    out: Path
    options: ClipOptions = ClipOptions()
    shard: Shard = Shard()
    workers: int = 1
    split_list: Path | None = None
    allow_partial: bool = False
    max_left_out_share: float = 0.05


@dataclass
class Summary:
    """What a run came to."""

    num_sources: int = 0
    num_clips: int = 0
    num_frames: int = 0
    num_written: int = 0
    skipped: list[str] = field(default_factory=list)
    """Sentences on paths of the download that were passed over: links, closed folders."""
    left_out: list[str] = field(default_factory=list)
    """Sentences on sources that can't be used."""
    manifest: Path | None = None
    """`None` for a shard; `merge` writes it."""


def prepare(job: Job, progress: Callable[[int, int], None] | None = None) -> Summary:
    """Write what is missing of a corpus; a finished one stays as it is.

    Raises `CorpusError` for a download that is not laid out as expected or is incomplete, for an
    `out` made otherwise, for too little space, and where more than `max_left_out_share` of the
    sources can't be used; `ConfigError` for options that can't be meant.
    """
    if job.workers < 1:
        raise ConfigError(f"workers is {job.workers}; give 1 or more.")
    adapter = find_adapter(job.dataset)
    tree = Tree(job.source)
    sources = list_sources(adapter, tree, job.allow_partial)
    if job.split_list is not None:
        sources = apply_split_list(sources, job.split_list)
    claim(job, sources)
    log = _Log(job.out / f"log{job.shard.suffix}.txt")
    log.add(
        f"prepare {job.dataset} from {tree.root}: {len(sources)} sources, shard "
        f"{job.shard.number}/{job.shard.count}"
    )
    for sentence in tree.left_out:
        log.add(f"left out: {sentence}")
    mine = sources[job.shard.number - 1 :: job.shard.count]
    done = finished(job.out, mine)
    summary = Summary(num_sources=len(mine), skipped=list(tree.left_out))
    todo = [source for source in mine if source.name not in done]
    check_space(todo, job.out, job.options)
    with Records(job.out / "records" / f"part{job.shard.suffix}.jsonl") as records:
        for number, record in enumerate(_work(todo, job), 1):
            records.add(record)
            done[record["source"]] = record
            log.add(_line(record))
            if progress is not None:
                progress(len(mine) - len(todo) + number, len(mine))
    with contextlib.suppress(OSError):  # another shard may be using it
        (job.out / "unpacked").rmdir()
    _summarize(summary, [done[source.name] for source in mine], len(todo))
    _check_share(summary, mine, job, log.file)
    if job.shard.count == 1:
        summary.manifest = write_tables(job.out, job.dataset, make_plan(sources), done)
    log.add(f"finished: {summary.num_clips} clips, {summary.num_frames} frames")
    return summary


def list_sources(adapter: Adapter, tree: Tree, allow_partial: bool) -> list[Source]:
    """All sources of a download, checked; raises `CorpusError`."""
    found = adapter.find(tree)
    sources = [] if found is None else list(found)
    if not sources:
        there = ", ".join(tree.top()[:8]) or "nothing"
        hint = f" {tree.left_out[0]}" if tree.left_out else ""
        raise CorpusError(
            f"{tree.root} is not laid out as {adapter.name} is after unpacking: expected "
            f"{adapter.layout}; found {there}.{hint}"
        )
    names: set[str] = set()
    for source in sources:
        if source.name in names:
            raise CorpusError(
                f"{tree.root} has two sources called {source.name}; rename one of them."
            )
        names.add(source.name)
    if not allow_partial:
        _check_whole(adapter, tree, sources)
    return sources


def _check_whole(adapter: Adapter, tree: Tree, sources: Sequence[Source]) -> None:
    found = {
        "sources": len(sources),
        "videos": sum(source.video is not None for source in sources),
        "frames": sum(len(source.pictures) for source in sources),
    }
    for what, expected in adapter.expected.items():
        if found[what] < expected:
            raise CorpusError(
                f"{tree.root} has {found[what]} {what} of {adapter.name}, but a whole download has "
                f"{expected}; fetch the rest, or prepare the part with --allow-partial."
            )


def claim(job: Job, sources: Sequence[Source]) -> None:
    """Make the folder this job's, or find that it is already; forget what has changed since.

    Raises `CorpusError` for a folder made from something else.
    """
    wanted = {
        "format": FORMAT,
        "dataset": job.dataset,
        "shards": job.shard.count,
        "options": asdict(job.options),
    }
    plan = make_plan(sources)
    note = job.out / "corpus.json"
    if note.is_file():
        _check_claim(note, wanted)
        old = _read_json(job.out / "plan.json")
        changed = [name for name in old if _fingerprint(plan, name) != _fingerprint(old, name)]
        if changed and (job.shard.count > 1 or any(name not in plan for name in changed)):
            raise CorpusError(
                f"{job.source} has changed since {job.out} was begun ({changed[0]}); restore it or "
                "give another folder."
            )
        for name in changed:
            for folder in ("clips", "masks"):
                _forget(job.out, f"{folder}/{name}")
        if job.shard.count > 1 and set(old) != set(plan):
            raise CorpusError(
                f"{job.source} has {len(plan)} sources, but another shard found {len(old)}; all "
                "shards must read the same download."
            )
        if plan != old:
            _write_json(job.out / "plan.json", plan)
        return
    there = [] if not job.out.is_dir() else [file.name for file in job.out.iterdir()]
    if "plan.json" not in there and any(not name.endswith(PART) for name in there):
        raise CorpusError(f"{job.out} holds other files; give an empty folder or a new one.")
    job.out.mkdir(parents=True, exist_ok=True)
    _write_json(job.out / "plan.json", plan)  # first: a claimed folder has a plan
    _write_json(note, wanted)


def _forget(out: Path, name: str) -> None:
    """Delete a folder of the corpus; raises `CorpusError` where a link leads out of it."""
    if not is_below(out, name):
        raise CorpusError(
            f"{out / name} leads out of {out} by a link, so it is not deleted; put a folder in the "
            "link's place, or prepare into another one."
        )
    shutil.rmtree(out / name, ignore_errors=True)


def _fingerprint(plan: Plan, name: str) -> str | None:
    return plan[name]["fingerprint"] if name in plan else None


def _check_claim(note: Path, wanted: dict[str, Any]) -> None:
    found = _read_json(note)
    flat = {**wanted, **wanted["options"]}
    old = {**found, **found.get("options", {})}
    changed = [name for name in flat if name != "options" and old.get(name) != flat[name]]
    if changed:
        said = ", ".join(f"{name} {old.get(name)} instead of {flat[name]}" for name in changed)
        raise CorpusError(
            f"{note.parent} was prepared otherwise ({said}); give another folder or delete this "
            "one."
        )


def finished(out: Path, sources: Sequence[Source]) -> dict[str, Record]:
    """Records of sources that need no more work: made from the same files, and still there."""
    records = read_records(sorted((out / "records").glob("*.jsonl")))
    done = {}
    for source in sources:
        record = records.get(source.name)
        if (
            record is not None
            and record["fingerprint"] == source.fingerprint
            and "left_out" not in record
            and all((out / name).is_file() for clip in record["clips"] for name in clip["files"])
        ):
            done[source.name] = record
    return done


def _work(sources: Sequence[Source], job: Job) -> Iterator[Record]:
    """Records as they are finished."""
    if job.workers == 1 or len(sources) < 2:
        for source in sources:
            yield prepare_source(source, job.out, job.options)
        return
    # Not forked: a child forked beside OpenCV's or FFmpeg's threads hangs.
    context = multiprocessing.get_context("spawn")
    workers = min(job.workers, len(sources))
    with ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),)) as pool:
        waiting: set[Future[Record]] = set()
        upcoming = iter(sources)
        try:
            while True:
                for source in upcoming:
                    waiting.add(pool.submit(prepare_source, source, job.out, job.options))
                    if len(waiting) >= 4 * workers:
                        break
                if not waiting:
                    return
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                "A worker process was killed, perhaps for memory; run the same command again, it "
                "goes on where it was, with fewer --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """A terminal's Ctrl-C reaches the whole group, but the main process ends its workers.

    Where it was killed and can't, they must not go on writing beside the next run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _line(record: Record) -> str:
    if "left_out" in record:
        return f"left out: {record['source']}: {record['left_out']}"
    cut = record["boxes_cut"]
    extra = f", {cut} boxes cut at the frame's edge" if cut else ""
    return (
        f"done: {record['source']}: {len(record['clips'])} clips, {record['frames']} frames at "
        f"{record['fps']:g}/s{extra}"
    )


def _summarize(summary: Summary, records: Sequence[Record], num_written: int) -> None:
    summary.num_written = num_written
    for record in records:
        summary.num_clips += len(record["clips"])
        summary.num_frames += record.get("frames", 0)
        if "left_out" in record:
            summary.left_out.append(record["left_out"])


def _check_share(summary: Summary, mine: Sequence[Source], job: Job, log: Path) -> None:
    lost = summary.left_out
    if len(lost) > job.max_left_out_share * len(mine):
        raise CorpusError(
            f"{len(lost)} of {len(mine)} sources can't be used, the first: {lost[0]} "
            f"All are in {log}; mend them and run the same command again, or raise "
            "--max-left-out-share."
        )


class _Log:
    """Sentences with their time, one a line, added to those of earlier runs."""

    def __init__(self, file: Path):
        self.file = file

    def add(self, sentence: str) -> None:
        """One more line."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{now} {sentence}\n")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{file} can't be read ({error}); delete its folder and prepare it anew."
        ) from error
    return dict(found)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with new_file(file, shared=True) as part:  # by shards that start at the same time
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
