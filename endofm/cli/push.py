"""`endofm push`: a model folder onto the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from endofm.cli.talk import say
from endofm.hub.huggingface import push


@dataclass(frozen=True)
class Push:
    """Upload a model folder to the Hugging Face Hub as one commit, after loading it as a check."""

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A model folder; its four files are sent, and nothing else that lies in it."""
    name: Annotated[Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    """The repository; it is made if it isn't there."""
    branch: str | None = None
    """Branch to commit to, made if it isn't there; by default main."""
    public: bool = False
    """Let everyone see the repository; by default it is private, and a public one is refused."""
    message: str = "Upload a model folder of endofm"
    """What the commit says."""

    def run(self) -> None:
        """Push, and say where the commit is; raises `WeightsError` before anything is sent."""
        say(push(self.folder, self.name, self.branch, not self.public, self.message))
