"""EV9V (2026): frames of videos in nine views, as its layout lists them."""

from collections.abc import Iterable, Iterator, Mapping

from endofm.data.corpus.adapters.common import check_columns, members, note_unmatched
from endofm.data.corpus.labels import read_table
from endofm.data.corpus.source import Adapter, Source
from endofm.data.corpus.tree import Tree
from endofm.errors import CorpusError

_LISTS = {"train.txt": "train", "validation.txt": "val", "test.txt": "test"}


def find(tree: Tree) -> Iterator[Source] | None:
    """`Images/<video>/frame_000001.jpg` with `labels.csv` and lists of videos."""
    base = tree.base("Images", "labels.csv")
    return None if base is None else _sources(tree, base)


def _sources(tree: Tree, base: str) -> Iterator[Source]:
    table = tree[f"{base}labels.csv"]
    rows = read_table(table)
    check_columns(table, rows, "names", "labels")
    labels = {row["names"]: row["labels"] for row in rows}
    splits: dict[str, str] = {}
    for name, split in _LISTS.items():
        if base + name not in tree:
            tree.left_out.append(f"{tree.root}/{base}{name} is absent; its videos have no split.")
            continue
        for line in tree[base + name].read_text().split():
            if splits.setdefault(line, split) != split:
                raise CorpusError(
                    f"{tree[base + name]} has {line}, which is in {splits[line]} too; a video "
                    "belongs to one split."
                )
    folders = tree.folders_of_pictures(f"{base}Images")
    videos = {folder.removeprefix(f"{base}Images/"): names for folder, names in folders.items()}
    note_unmatched(tree, labels, videos, "video")
    _note_lists(tree, base, splits, videos)
    for video, names in videos.items():
        yield Source(
            video,
            pictures=members(tree, names),
            group=f"ev9v/{video}",
            split=splits.get(video, ""),
            labels={"view": labels[video]} if video in labels else {},
        )


def _note_lists(tree: Tree, base: str, splits: Mapping[str, str], videos: Iterable[str]) -> None:
    """Say which videos of the lists are absent, and which are in no list."""
    absent, unlisted = sorted(splits.keys() - set(videos)), sorted(set(videos) - splits.keys())
    if absent:
        tree.left_out.append(
            f"{len(absent)} videos of the lists are not in {tree.root}/{base}Images, the first: "
            f"{absent[0]}; the download may be incomplete."
        )
    if unlisted and all(base + name in tree for name in _LISTS):
        tree.left_out.append(
            f"{len(unlisted)} videos are in no list, the first: {unlisted[0]}; they have no split."
        )


EV9V = Adapter(
    "ev9v",
    "Images/<video>/frame_000001.jpg with labels.csv and train.txt, validation.txt, test.txt",
    find,
    {"sources": 5138},
)
