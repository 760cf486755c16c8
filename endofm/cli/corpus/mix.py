"""`endofm corpus mix`: several prepared datasets as the data of one recipe."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import say
from endofm.data.manifests.mix import find_sources, read_mix, write_recipe


@dataclass(frozen=True)
class Mix:
    """Combine prepared datasets, with weights, into a recipe that pretrains on them.

    Sources that are not on the disk are named, with where to get them.
    """

    mix: Annotated[Positional[Path], tyro.conf.arg(metavar="MIX.yaml")]
    """The mix; data_manifests/mixes/endofm.yaml is that of the paper."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="RECIPE.yaml")]
    """The recipe to write, for `python -m pretrain --config RECIPE.yaml`."""
    root: Path = Path()
    """Folder with the prepared datasets, each in a folder of its name."""
    recipe: Path | None = None
    """A recipe from which everything but the data is taken."""
    cards: Path | None = None
    """Folder of data cards; by default those of endofm."""

    def run(self) -> None:
        """Look for the sources, say what is there and what isn't, write the recipe."""
        mix = read_mix(self.mix)
        mixed = find_sources(mix, self.root, self.cards)
        for sentence in mixed.absent:
            say(f"absent: {sentence}")
        for sentence in mix.missing:
            say(f"not to be had: {sentence}")
        for sentence in mix.notes:
            say(f"note: {sentence}")
        found = zip(mixed.manifests, mixed.weights, mixed.num_clips, strict=True)
        for manifest, weight, clips in found:
            say(f"{manifest}: {clips} clips, an epoch shows {max(1, round(weight * clips))}")
        write_recipe(self.out, mix, mixed, self.recipe)
        command = f"python -m pretrain --config {shlex.quote(str(self.out))} --explain"
        say(
            f"{self.out} is written: {len(mixed.manifests)} of {len(mix.sources)} sources of the "
            f"mix {mix.name}. What training on it would take: {command}"
        )
