"""A corpus of synthetic chest CT: NIfTI volumes with a lesion each, and their manifest.

```
manifest.csv                   path, frames, group, split, label_lesion, label_look
corpus.json                    what the folder was made from
volumes/volume_00000.nii.gz    Hounsfield units
```
"""

import gzip
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from endofm.data.manifests.manifest import Segment, write_manifest
from endofm.data.video.volume import needs
from endofm.errors import ConfigError
from endofm.files import write_bytes
from endofm.synthetic.chest import Grid, add_noise, draw_chest, paint_body, paint_vessels
from endofm.synthetic.corpus import claim
from endofm.synthetic.lesions import KINDS, LOOKS, paint_lesions

FORMAT = 1  # raise it when the same spec gives other files


@dataclass(frozen=True)
class CtSpec:
    """What a corpus of volumes holds; volume i depends on the seed, i and the sizes only."""

    num_volumes: int = 60
    """Volumes in all; the six kinds of lesion take turns."""
    num_slices: int = 32
    """Slices of a volume; together they are 256 mm high."""
    pixels: int = 64
    """Height and width of a slice, which is 340 mm wide."""
    seed: int = 0
    """Another seed, another corpus."""
    test_share: float = 0.25
    """Share of the volumes of each kind whose split is `test`; the others are `train`."""

    def __post_init__(self) -> None:
        """Refuse values that can't be meant."""
        if not 1 <= self.num_volumes <= 99_999:
            raise ConfigError(
                f"num_volumes is {self.num_volumes}; choose a number from 1 to 99999."
            )
        if not (16 <= self.num_slices <= 512 and 32 <= self.pixels <= 512):
            raise ConfigError(
                f"A volume of {self.num_slices} slices of {self.pixels} pixels can't be made; give "
                "16 to 512 slices (num_slices) of 32 to 512 pixels."
            )
        if self.seed < 0 or not 0 <= self.test_share <= 1:
            raise ConfigError(
                f"The seed is {self.seed} and test_share {self.test_share}; give a whole number of "
                "0 or more, and a share from 0 to 1."
            )


@dataclass(frozen=True)
class VolumePlan:
    """What volume `index` of a corpus is to show."""

    index: int
    kind: str
    split: str

    @property
    def path(self) -> str:
        """Where it lies in the folder."""
        return f"volumes/volume_{self.index:05d}.nii.gz"


def plan_volume(spec: CtSpec, index: int) -> VolumePlan:
    """Kind and split of a volume: rounds of all kinds, each giving its share to the test."""
    turn, place = divmod(index, len(KINDS))
    number = int(np.random.default_rng([spec.seed, 1, turn]).permutation(len(KINDS))[place])
    before = turn * spec.test_share + number / len(KINDS) + 1e-9
    is_test = math.floor(before + spec.test_share) > math.floor(before)
    return VolumePlan(index, KINDS[number], "test" if is_test else "train")


def make_volume(
    kind: str, seed: int | list[int], num_slices: int, pixels: int
) -> tuple[npt.NDArray[np.int16], tuple[float, float, float]]:
    """Hounsfield units int16 [S, P, P] from the feet to the head, front first, the patient's right
    first; and millimetres from slice to slice, row to row, column to column.
    """
    rng = np.random.default_rng(seed)
    grid, chest = Grid(num_slices, pixels), draw_chest(rng)
    share = paint_body(grid, chest, rng)
    paint_vessels(grid, chest, share, rng)
    paint_lesions(grid, chest, share, kind, rng)
    add_noise(grid, rng)
    return np.rint(np.clip(grid.units, -1024, 3071)).astype(np.int16), grid.spacing


def write_volumes(
    folder: Path, spec: CtSpec, progress: Callable[[int], None] | None = None
) -> Path:
    """Write what is missing of a corpus into a folder; returns the manifest.

    `progress` is called with the number of finished volumes. Raises `ConfigError` for a folder made
    from another spec or that can't be written, and without nibabel.
    """
    folder = Path(folder)
    plans = [plan_volume(spec, index) for index in range(spec.num_volumes)]
    claim(folder, {"format": FORMAT, "kind": "ct", **asdict(spec)})
    (folder / "volumes").mkdir(exist_ok=True)
    for done, plan in enumerate(plans, 1):
        file = folder / plan.path
        if not file.is_file():
            units, spacing = make_volume(
                plan.kind, [spec.seed, 0, plan.index], spec.num_slices, spec.pixels
            )
            _write_nifti(file, units, spacing)
        if progress is not None:
            progress(done)
    write_manifest(folder / "manifest.csv", [_segment(folder, plan, spec) for plan in plans])
    return folder / "manifest.csv"


def _write_nifti(
    file: Path, units: npt.NDArray[np.int16], spacing: tuple[float, float, float]
) -> None:
    """The file appears whole or not at all, and is the same bytes whenever it is written."""
    try:
        import nibabel
    except ImportError as error:
        raise needs("nibabel", file) from error
    to_head, to_back, to_left = spacing
    # NIfTI counts to the right and front
    affine = np.diag([-to_left, -to_back, to_head, 1.0])
    affine[:3, 3] = affine[:3, :3] @ (-(np.array(units.shape[::-1]) - 1) / 2)
    image = nibabel.Nifti1Image(units.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    write_bytes(file, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _segment(folder: Path, plan: VolumePlan, spec: CtSpec) -> Segment:
    labels = {"lesion": plan.kind, "look": LOOKS[plan.kind]}
    return Segment(folder, plan.path, 0, spec.num_slices, plan.path, plan.split, labels)
