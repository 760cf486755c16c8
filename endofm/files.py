"""Files that must be there whole or not at all, also after a power cut."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    flush(part)
    part.replace(path)


def flush(path: Path) -> None:
    """Have the system write a file or folder to the disk before its new name is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
