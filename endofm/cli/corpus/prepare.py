"""`endofm corpus prepare`: a download as clips with a manifest."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from endofm.cli.talk import progress, say
from endofm.data.corpus.prepare import Job, Shard, prepare
from endofm.data.corpus.work import ClipOptions
from endofm.errors import ConfigError


@dataclass(frozen=True)
class Prepare:
    """Cut a source dataset, as downloaded, into clips with labels; goes on where it was."""

    dataset: str
    """Which one: the name of its card, such as hyper_kvasir_videos; own_folder for your own."""
    source: Path
    """The folder that the download was unpacked into, or a zip or tar archive of it."""
    out: Path
    """Folder to write: clips, masks, boxes.csv, manifest.csv, log.txt."""
    clips: OmitArgPrefixes[ClipOptions] = ClipOptions()
    split_list: Path | None = None
    """A CSV (group,split or name,split) that says which split each source belongs to."""
    shard: str = "1/1"
    """Part i/n of the sources, for an array of jobs; `endofm corpus merge` puts them together."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)
    """Processes."""
    allow_partial: bool = False
    """Prepare a download that has less than the whole dataset."""
    max_left_out_share: float = 0.05
    """Stop with an error where more than this share of the sources can't be used."""

    def run(self) -> None:
        """Prepare it, and say what came of it and what was left out."""
        shard = _shard(self.shard)
        job = Job(
            self.dataset,
            self.source,
            self.out,
            self.clips,
            shard,
            self.workers,
            self.split_list,
            self.allow_partial,
            self.max_left_out_share,
        )
        with progress("sources") as show:
            summary = prepare(job, show)
        for sentence in [*summary.skipped, *summary.left_out]:
            say(f"left out: {sentence}")
        say(
            f"{self.out} has {summary.num_clips} clips, {summary.num_frames} frames, of "
            f"{summary.num_sources} sources; {summary.num_written} sources were written now, "
            f"{len(summary.left_out)} can't be used."
        )
        if summary.manifest is not None:
            say(f"Its manifest is {summary.manifest}.")
        else:
            merge = f"endofm corpus merge {shlex.quote(str(self.out))}"
            say(f"This is shard {self.shard}; when all are done: {merge}")


def _shard(text: str) -> Shard:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise ConfigError(f"shard is '{text}'; write i/n with i from 1 to n, such as 3/16.")
    return Shard(int(number), int(count))
