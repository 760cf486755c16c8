"""Run checkpoints: written beside, then renamed, so that a half-written one is never taken for
whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from endofm.errors import RunError
from endofm.files import flush
from endofm.processes import gather_objects
from endofm.training.peers import is_failed_collective
from endofm.training.sharding import how_weights_are_kept

NAME = "step-{:08d}"
KEEP = 2
"""Whole checkpoints that stay; older ones are deleted after a newer one is whole."""


def saved_steps(folder: Path) -> dict[int, Path]:
    """Checkpoints in a folder by their step, first to last, whole or not.

    What has another name, a copy that somebody put beside them, is none: it is left alone.
    """
    steps = {}
    for path in folder.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdecimal() and path.name == NAME.format(int(number)):
            steps[int(number)] = path
    return dict(sorted(steps.items()))


class Checkpoints:
    """The folder `checkpoints/` of a run: `step-00000500/`, ...; private to the run, not for
    sharing.

    A checkpoint holds student, teacher, centre, optimizer and loss scaler, as accelerate saves
    them, and `whole.json`, written last. (Random numbers are a function of the step: `seed_step`.)
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, global_batch: int, corpus: str
    ) -> None:
        """Checkpoints in `folder` of a run with `global_batch` clips a step of a `corpus`."""
        self.folder = folder
        self.accelerator = accelerator
        self.facts = {
            "global_batch": global_batch,
            "corpus": corpus,
            "weights": how_weights_are_kept(accelerator),
        }

    def whole(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first."""
        found = saved_steps(self.folder).values()
        return [path for path in found if (path / "whole.json").is_file()]

    def save(self, step: int) -> Path:
        """Save the state after `step` steps; a failure leaves the older checkpoints as they are."""
        path = self.folder / NAME.format(step)
        part = self.folder / f"part-{step:08d}"
        is_main = self.accelerator.is_main_process
        try:
            if is_main:
                for pattern in ("part-*", "old-*", path.name):
                    for stale in self.folder.glob(pattern):
                        shutil.rmtree(stale, ignore_errors=True)
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(part))
            self.accelerator.wait_for_everyone()
            if is_main:
                facts = {"step": step, **self.facts}
                (part / "whole.json").write_text(json.dumps(facts), encoding="utf-8")
                for file in [*part.rglob("*"), part]:  # divided weights come in folders
                    flush(file)
                part.rename(path)
                flush(self.folder)
        except self._failures() as error:
            if is_main:
                shutil.rmtree(part, ignore_errors=True)
            if is_failed_collective(error):  # another process's fault
                raise
            raise RunError(
                f"The checkpoint of step {step} can't be written to {self.folder} "
                f"({_reason(error)}); earlier ones are untouched: make room, and the same command "
                "goes on."
            ) from error
        if is_main:
            for old in self.whole()[:-KEEP]:
                # renamed first: one that is deleted in part must not look whole
                aside = old.rename(self.folder / old.name.replace("step-", "old-"))
                shutil.rmtree(aside, ignore_errors=True)  # what stays goes with the next save
        self.accelerator.wait_for_everyone()
        return path

    def restore(self) -> int:
        """Load the newest whole checkpoint into what accelerate has prepared; its step, or 0.

        Raises `RunError` if it doesn't belong to this start, can't be read, or is not the same for
        every process.
        """
        whole = self.whole()
        if len({tuple(newest) for newest in gather_objects(whole[-1:])}) > 1:
            raise RunError(
                f"Not every process sees the same checkpoints in {self.folder}; give a --run.out "
                "on a file system that all nodes share."
            )
        if not whole:
            return 0
        facts = self._read_facts(whole[-1])
        if facts["global_batch"] != self.facts["global_batch"]:
            raise RunError(
                f"{whole[-1]} was made with {facts['global_batch']} clips a step, and this start "
                f"has {self.facts['global_batch']} (batch_size x accumulate x processes); keep "
                "their product."
            )
        if facts["corpus"] != self.facts["corpus"]:
            raise RunError(
                f"{whole[-1]} was made with other clips than the manifests list now, less those "
                "in quarantine beside them; bring both back, or give another --run.out."
            )
        kept = facts["weights"]
        if kept != self.facts["weights"]:
            raise RunError(
                f"{whole[-1]} was saved with weights kept as {kept}, and this start "
                f"keeps them as {self.facts['weights']}; go on with the same FSDP settings."
            )
        try:
            self.accelerator.load_state(str(whole[-1]))
        except self._failures() as error:
            if is_failed_collective(error):
                raise
            raise RunError(
                f"{whole[-1]} can't be read into this run ({_reason(error)}); "
                "bring back the configuration it was made with, or, if it is damaged, delete that "
                "folder: the same command goes on from the one before."
            ) from error
        return int(facts["step"])

    def _read_facts(self, path: Path) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        file = path / "whole.json"
        try:
            facts = {"weights": "whole", **json.loads(file.read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError):
            facts = {}
        if path.name != NAME.format(facts.get("step", -1)) or not facts.keys() >= self.facts.keys():
            raise RunError(
                f"{file} does not say what its folder holds, so that the checkpoint can't be used; "
                "delete that folder: the same command goes on from the one before."
            )
        return facts

    def _failures(self) -> tuple[type[BaseException], ...]:
        """What saving and loading may raise: torch, safetensors, the system have each their own."""
        if self.facts["weights"] == "whole":
            return (Exception,)
        from torch.distributed.checkpoint.api import CheckpointException  # takes long to import

        return (Exception, CheckpointException)  # which is no `Exception`


def _reason(error: BaseException) -> str:
    """The first line of what went wrong; of divided weights, on the first rank that says it."""
    for failed, _ in getattr(error, "failures", {}).values():
        return _reason(failed)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
