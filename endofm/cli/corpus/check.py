"""`endofm corpus check`: clips that can't be trained on, as a list that training leaves out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.corpus.scan import Scan
from endofm.cli.talk import say
from endofm.data.checks.quality import FAULTS, MIN_FRAMES, find_faults
from endofm.data.manifests.quarantine import (
    LEAK,
    quarantine_file,
    read_quarantine,
    write_quarantine,
)
from endofm.errors import ConfigError


@dataclass(frozen=True)
class Check:
    """Decode every clip once, and put into quarantine what can't be trained on.

    Broken, too short, black, frozen, wrongly ordered and exactly repeated clips are listed in
    MANIFEST.quarantine.csv beside the manifest; training leaves them out. Delete a row to use its
    clip all the same. Run again, it goes on where it was.
    """

    manifests: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MANIFEST...")]
    """Manifests to check."""
    out: Path | None = None
    """The list to write, for one manifest; training honours only the one beside the manifest."""
    min_frames: int = MIN_FRAMES
    """Clips with fewer frames are too short."""
    scan: OmitArgPrefixes[Scan] = Scan()

    def run(self) -> None:
        """Check, say what was found, write the lists."""
        if not self.manifests:
            raise ConfigError("There is nothing to check; give at least one manifest.")
        if self.out is not None and len(self.manifests) > 1:
            raise ConfigError(
                f"{self.out} can hold the list of one manifest, but {len(self.manifests)} are "
                "given; leave --out away, and each list lies beside its manifest."
            )
        seen: dict[str, str] = {}
        for manifest, segments in self.scan.read(self.manifests):
            broken = self.scan.decode(segments)
            faults = find_faults(segments, self.scan.store, broken, self.min_frames, seen)
            file = self.out or quarantine_file(manifest)
            if self.out is None:  # what `endofm corpus leaks` put there stays
                faults += [row for row in read_quarantine(manifest) if row.fault == LEAK]
            if faults or file.is_file():
                write_quarantine(file, faults)
            for clip, fault, reason in faults:
                say(f"{fault}: {clip}: {reason}")
            counts = Counter(fault.fault for fault in faults)
            told = ", ".join(f"{name} {counts[name]}" for name in (*FAULTS, LEAK) if counts[name])
            end = f" {file} lists them." if faults else ""
            say(f"{manifest}: {len(faults)} of {len(segments)} clips are faulty{_in(told)}.{end}")


def _in(told: str) -> str:
    return f" ({told})" if told else ""
