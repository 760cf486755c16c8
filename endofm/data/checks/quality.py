"""Clips that can't be trained on, and why, from their fingerprints."""

import math
from collections.abc import Sequence

from endofm.data.checks.fingerprint import Fingerprint
from endofm.data.checks.fingerprint_store import Store
from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.quarantine import Quarantined

MIN_FRAMES = 2
FROZEN_SHARE = 0.9
DARK_SHARE = 0.9

FAULTS = {
    "broken": "can't be decoded, or has fewer frames than the manifest promises",
    "short": "has too few frames",
    "black": "is black or of one colour",
    "frozen": "shows one picture all the time",
    "order": "has its frames in an implausible order",
    "duplicate": "shows exactly what another clip shows",
}


def find_faults(
    segments: Sequence[Segment],
    store: Store,
    broken: dict[int, str],
    min_frames: int = MIN_FRAMES,
    seen: dict[str, str] | None = None,
) -> list[Quarantined]:
    """One fault a clip, the gravest; clips whose fingerprints are in the store, or in `broken`.

    Of exact duplicates the first is good. `seen` (content -> name of the first clip) carries them
    from manifest to manifest and is added to.
    """
    seen = {} if seen is None else seen
    faults = []
    for number, segment in enumerate(segments):
        if number in broken:
            faults.append(Quarantined(segment.name, "broken", broken[number]))
            continue
        told = store.make(segment)
        fault = _fault(told, min_frames)
        first = seen.setdefault(told.content, segment.name) if fault is None else segment.name
        if fault is None and first != segment.name:
            fault = ("duplicate", f"shows exactly what {first} shows")
        if fault is not None:
            faults.append(Quarantined(segment.name, *fault))
    return faults


def _fault(told: Fingerprint, min_frames: int) -> tuple[str, str] | None:
    """Kind and words, for what one fingerprint tells."""
    order = told.ordering
    if told.num_frames < min_frames:
        return (
            "short",
            f"its length is {told.num_frames}, but at least {min_frames} frames are needed",
        )
    if told.dark_share >= DARK_SHARE:
        return "black", f"{told.dark_share:.0%} of its frames are black or of one colour"
    if told.frozen_share >= FROZEN_SHARE:
        return "frozen", f"{told.frozen_share:.0%} of its frames repeat the one before"
    if order.is_alphabetic:
        return "order", (
            "its frames seem to be sorted as text (1, 10, 11, 2): put back, neighbours differ by "
            f"{order.numbered:.1f} grey levels instead of {order.next:.1f}"
        )
    if not math.isnan(order.next) and order.is_shuffled:
        return "order", (
            f"neighbouring frames differ by {order.next:.1f} grey levels, but each has others in "
            f"the clip at {order.nearest:.1f}"
        )
    return None
