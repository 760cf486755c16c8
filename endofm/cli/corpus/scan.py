"""What `check`, `leaks` and `report` share: manifests, the store of fingerprints, decoding."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endofm.cli.talk import progress
from endofm.data.checks.fingerprint_store import Store, fingerprint_all
from endofm.data.leakage import Member
from endofm.data.manifests.manifest import Segment, read_manifest


@dataclass(frozen=True)
class Scan:
    """How clips are decoded; what was decoded before is not decoded again."""

    root: Path | None = None
    """Folder that the manifests' paths start from; by default each manifest's own."""
    cache: Path | None = None
    """Folder of fingerprints, about 25 kB a clip of five seconds; by default in ~/.cache/endofm."""
    workers: int = os.cpu_count() or 1
    """Processes that decode."""

    @property
    def store(self) -> Store:
        """Where fingerprints are kept."""
        return Store(self.cache or Store.default())

    def read(self, manifests: Sequence[Path]) -> list[tuple[Path, list[Segment]]]:
        """The rows of each manifest, once."""
        return [(manifest, read_manifest(manifest, self.root)) for manifest in manifests]

    def decode(self, segments: Sequence[Segment]) -> dict[int, str]:
        """Decode clips that have no fingerprint yet; why not, for those that can't be decoded."""
        with progress("clips") as show:
            return fingerprint_all(segments, self.store, self.workers, show)


def members_of(
    manifest: Path, segments: Sequence[Segment], store: Store, broken: dict[int, str]
) -> list[Member]:
    """Clips that could be decoded, with what comparing them needs."""
    members = []
    for number, segment in enumerate(segments):
        if number not in broken:
            told = store.make(segment)
            members.append(Member(manifest, segment, told.content, told.fps, told.thumb_step))
    return members
