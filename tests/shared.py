"""Where the shared reference material lies."""

import os
from pathlib import Path

import pytest


def shared_folder(*parts: str) -> Path:
    """A folder or file of the shared material; skips the test where it is absent."""
    root = Path(os.environ.get("ENDOFM_SHARED") or Path(__file__).parents[2] / "shared")
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent (set ENDOFM_SHARED to the shared folder)")
    return path
