"""`endofm corpus leaks`: clips to train on that show what held-out clips show."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from endofm.cli.corpus.scan import Scan, members_of
from endofm.cli.talk import progress, say
from endofm.data.leakage import Leak, Member, find_leaks, known_leaks, leaks_file, write_leaks
from endofm.data.leakage.find import Leaks as Found
from endofm.data.leakage.find import crosses_splits, turned
from endofm.data.leakage.index import MAX_SHARING
from endofm.data.manifests.quarantine import (
    LEAK,
    Quarantined,
    quarantine_file,
    read_quarantine,
    without_quarantined,
    write_quarantine,
    write_table,
)
from endofm.errors import ConfigError
from endofm.report.leaks import leaks_page


@dataclass(frozen=True)
class Leaks:
    """Find clips that show what others show, equal or changed, within and between manifests.

    Clips in quarantine are not looked at. Leaks are listed in TRAIN.leaks.csv beside the manifest;
    training on one of them is refused.
    """

    train: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TRAIN...")]
    """Manifests to train on."""
    against: tuple[Path, ...] = ()
    """Manifests that are held out; left away: TRAIN's own splits, and TRAIN's manifests against
    each other."""
    out: Path = Path("leaks")
    """Folder to write: leaks.csv (all pairs) and leaks.html (pairs as pictures)."""
    quarantine: bool = False
    """Put what leaks into quarantine beside TRAIN: a clip of the split train, or of any split where
    the held-out clip is of another manifest."""
    scan: OmitArgPrefixes[Scan] = Scan()

    def run(self) -> None:
        """Decode, compare, write lists and page, say what was found."""
        if not self.train:
            raise ConfigError("There is nothing to compare; give at least one manifest.")
        both = {path.resolve() for path in self.train} & {path.resolve() for path in self.against}
        if both:
            raise ConfigError(
                f"{min(both)} is given as TRAIN and after --against; leave --against away to "
                "compare the splits of one manifest."
            )
        trained = self._members(self.train)
        held_out = self._members(self.against) if self.against else None
        with progress("clips") as show:
            found = find_leaks(
                trained, held_out, self.scan.store, lambda _, done, total: show(done, total)
            )
        self._write(found, len(trained), len(held_out or ()))
        for manifest in self.train:
            self._list(manifest, found)

    def _members(self, manifests: Sequence[Path]) -> list[Member]:
        members = []
        for manifest, rows in self.scan.read(manifests):
            segments, dropped = without_quarantined(manifest, rows)
            broken = self.scan.decode(segments)
            members += members_of(manifest, segments, self.scan.store, broken)
            if dropped:
                say(f"{manifest}: {len(dropped)} clips are in quarantine and left out.")
            for reason in broken.values():
                say(f"not compared: {reason}")
        return members

    def _write(self, found: Found, num_trained: int, num_held_out: int) -> None:
        """All pairs as a table and a page."""
        rows = [(first.manifest, *astuple(leak)[:-1]) for first, _, leak in found.pairs]
        names = [field.name for field in fields(Leak)][:-1]
        write_table(self.out / "leaks.csv", ("of_manifest", *names), rows)
        against = f"against {num_held_out:,}" if self.against else "among themselves"
        notes = f"{num_trained:,} clips were compared {against}: {len(found.pairs):,} pairs."
        if found.num_screens:
            notes += (
                f" {found.num_screens:,} pictures look like more than {MAX_SHARING} others (a "
                "title, a screen) and were not compared with them."
            )
        say(notes)
        say(f"{leaks_page(self.out / 'leaks.html', found.pairs, notes)} shows them.")

    def _list(self, manifest: Path, found: Found) -> None:
        """The list that training honours, and the quarantine if wanted."""
        listed = []
        for first, second, leak in found.pairs:
            if not (self.against or first.manifest == second.manifest):
                continue  # both are to be trained on: a duplicate, not a leak
            if first.manifest == manifest and crosses_splits(first, second):
                listed.append(leak)
                if second.manifest == manifest:
                    listed.append(turned(leak, first, second))
        if listed or leaks_file(manifest).is_file():
            file = write_leaks(manifest, listed)
            say(f"{file} lists {len(listed)}; training on them is refused.")
        if self.quarantine:
            self._put_away(manifest)

    def _put_away(self, manifest: Path) -> None:
        rows = read_quarantine(manifest)
        segments = dict(self.scan.read([manifest]))[manifest]
        listed = {row.clip for row in rows}
        trained = [one for one in segments if self.against or one.split == "train"]
        reasons = {
            leak.clip: Quarantined(leak.clip, LEAK, f"shows what {leak.against} shows")
            for leak in known_leaks(manifest, trained)
            if leak.clip not in listed
        }
        write_quarantine(quarantine_file(manifest), [*rows, *reasons.values()])
        say(f"{quarantine_file(manifest)} keeps {len(reasons)} of them from training.")
