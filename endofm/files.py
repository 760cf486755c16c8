"""Files that must be there whole or not at all, also after a power cut."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Have the system write a file or folder to the disk before its new name is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
