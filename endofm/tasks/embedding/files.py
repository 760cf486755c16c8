"""Embeddings in files: `.npz` for NumPy, `.parquet` for tables."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from endofm.errors import ConfigError, RunError
from endofm.files import new_file

Arrays = dict[str, np.ndarray]
SUFFIXES = (".npz", ".parquet")
_KEY = b"endofm"


def write_embedding(path: Path, arrays: Arrays, settings: Mapping[str, Any]) -> None:
    """Write beside and rename. Raises `ConfigError` for an ending that is none of `SUFFIXES`."""
    is_table = _is_table(path)
    note = json.dumps(dict(settings))
    with new_file(path) as part:
        if is_table:
            _write_table(part, arrays, note)
        else:
            with part.open("wb") as file:
                np.savez(file, settings=np.array(note), **arrays)  # type: ignore[arg-type]


def read_embedding(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and settings. Raises `RunError` where the file is absent, not whole, or another's."""
    try:
        if _is_table(path):
            return _read_table(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, dict(json.loads(str(arrays.pop("settings"))))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings alone, without reading features; raises `RunError` as `read_embedding`."""
    try:
        if _is_table(path):
            return dict(_notes(_parquet().read_schema(path))["settings"])
        with np.load(path, allow_pickle=False) as file:
            return dict(json.loads(str(file["settings"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def check_suffix(suffix: str) -> None:
    """Raise `ConfigError` where files with this ending can't be written here."""
    if _is_table(Path("x" + suffix)):
        _parquet()


def _is_table(path: Path) -> bool:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} ends neither in .npz nor in .parquet; give it one of them.")
    return path.suffix == ".parquet"


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet files need pyarrow, which is not installed; `pip install pyarrow`, or choose "
            "npz."
        ) from error
    return pyarrow.parquet


def _write_table(path: Path, arrays: Arrays, note: str) -> None:
    """A row a clip; an array's further dimensions are one list of fixed length."""
    parquet = _parquet()
    import pyarrow as pa

    columns = {}
    for name, array in arrays.items():
        flat = pa.array(array.reshape(-1))
        width = int(np.prod(array.shape[1:]))
        columns[name] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    notes = json.dumps({"settings": json.loads(note), "shapes": shapes})
    parquet.write_table(pa.table(columns).replace_schema_metadata({_KEY: notes.encode()}), path)


def _read_table(path: Path) -> tuple[Arrays, dict[str, Any]]:
    table = _parquet().read_table(path)
    notes = _notes(table.schema)
    arrays = {}
    for name, shape in notes["shapes"].items():
        column = table[name].combine_chunks()
        flat = column.flatten() if shape else column
        arrays[name] = flat.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    return arrays, dict(notes["settings"])


def _notes(schema: Any) -> dict[str, Any]:
    return dict(json.loads((schema.metadata or {})[_KEY]))


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} is no whole file of features ({error}); delete it and let `endofm embed` make it "
        "again."
    )
