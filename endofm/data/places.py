"""The one check of names and paths that come from a file: they stay below the folder they start in.

Tables, annotations, archives and folders that others made name files; what is written, read or
deleted by such a name must not lie elsewhere, by its spelling or over a link.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath


def leads_out(name: str) -> bool:
    """Whether a relative name is none, by its spelling on any system: `../a`, `/a`, `C:a`, NUL."""
    windows = PureWindowsPath(name)
    return (
        "\0" in name
        or PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts  # which takes both kinds of slash
    )


def is_below(root: Path, name: str) -> bool:
    """Whether `name` below `root` is there with links followed too, and is not `root` itself.

    Raises `OSError` or `RuntimeError` where links can't be followed.
    """
    if leads_out(name):
        return False
    home, place = root.resolve(), (root / name).resolve()
    return place != home and place.is_relative_to(home)
