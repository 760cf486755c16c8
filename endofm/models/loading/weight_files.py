"""Weight files opened without running code: safetensors and what torch.save writes, old and new.

Told apart by their content, never by their suffix. Limits, so that a file can't ask for more than
it holds: a safetensors header of at most `MAX_HEADER_BYTES`, archives without compression, no
tensor longer than its bytes.
"""

import argparse
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from endofm.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
OTHER_FORMATS = {  # the first bytes -> what that is, and the way out
    b"version https://git-lfs": "a Git LFS pointer, not weights; run `git lfs pull`",
    b"\x1f\x8b": "a compressed archive (gzip); unpack it and give the file inside",
    b"7z\xbc\xaf": "a compressed archive (7z); unpack it and give the file inside",
    b"Rar!": "a compressed archive (rar); unpack it and give the file inside",
    b"%PDF": "a PDF, not weights; download the weights themselves",
    b"\x89HDF": "an HDF5 file (Keras or MATLAB); give PyTorch weights",
    b"{": "JSON text, not weights; read it: it may say why the download failed",
}


def read_content(path: Path) -> Any:
    """What a weight file holds: tensors by name, or a checkpoint's nested dictionaries.

    Apart from tensors only plain data is accepted. Raises `WeightsError` with the reason.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give a .safetensors or .pth file.")
    try:
        with path.open("rb") as file:
            start = file.read(256)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path} can't be opened ({reason(error)}).") from error
    _refuse_what_is_no_weights(path, start)
    if start[8:9] == b"{":  # eight bytes of length, then JSON
        return _read_safetensors(path, int.from_bytes(start[:8], "little"), size)
    _refuse_other_archives(path, size)
    content = _read_torch(path)
    _refuse_tensors_longer_than_their_bytes(content, path)
    return content


def reason(error: Exception) -> str:
    """The first sentence of what a library says."""
    told = f"{type(error).__name__}: {str(error).strip()}"
    return told.splitlines()[0].split(". ")[0].rstrip(".: ")


def _refuse_what_is_no_weights(path: Path, start: bytes) -> None:
    text = start.lstrip()
    if not text:
        raise WeightsError(f"{path} is empty; download it again.")
    if text.startswith((b"<", b"\xef\xbb\xbf<")):
        raise WeightsError(
            f"{path} is a web page, not weights; open its link in a browser and save the file."
        )
    for magic, what in OTHER_FORMATS.items():
        if text.startswith(magic):
            raise WeightsError(f"{path} is {what}.")


def _refuse_other_archives(path: Path, size: int) -> None:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile:
            return  # torch says it better
        names = [entry.filename for entry in entries]
        if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
            kind = "NumPy arrays (JAX's weights?)" if path.suffix == ".npz" else "an archive"
            raise WeightsError(
                f"{path} is {kind}, not what torch.save writes; unpack it, or give weights in "
                "PyTorch's format."
            )
        if any(name.endswith("/constants.pkl") for name in names):
            raise WeightsError(
                f"{path} is a TorchScript program, which may act; save the state dict of "
                "torch.jit.load(...) alone, as safetensors, where you trust it."
            )
        if sum(entry.file_size for entry in entries) > size:
            raise WeightsError(
                f"{path} is a compressed archive, which torch.save never writes; unpack it and "
                "save its state dict anew, as safetensors."
            )
    elif tarfile.is_tarfile(path):
        raise WeightsError(
            f"{path} is a tar file: an archive to unpack, or a checkpoint of PyTorch before 0.1.10 "
            "that can't be read without running its code; read it with an old PyTorch where you "
            "trust it and save its state dict anew."
        )


def _read_safetensors(path: Path, header_bytes: int, size: int) -> dict[str, Tensor]:
    if header_bytes > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path} claims a header of {header_bytes:,} bytes (at most {MAX_HEADER_BYTES:,}); it "
            "is broken or not meant well: get it from another place."
        )
    try:
        if 8 + header_bytes > size:
            raise ValueError(f"its header of {header_bytes:,} bytes is longer than the file")
        with path.open("rb") as file:
            file.seek(8)
            json.loads(file.read(header_bytes))
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} can't be read as safetensors ({reason(error)}); it may be cut off: "
            "download it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        # An open file, not its path: torch would believe the suffix.
        with torch.serialization.safe_globals(_plain_data()), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a broken pickle raises nearly anything; all of it means: unreadable
        named = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise WeightsError(
                f"{path} holds code or objects ({named[1]}) beside its tensors and was not loaded; "
                "save its state dict alone, as safetensors."
            ) from error
        raise WeightsError(
            f"{path} can't be read as a PyTorch checkpoint ({reason(error)}); it may be "
            "cut off or of another format: download it again."
        ) from error


def _plain_data() -> list[Any]:
    """What checkpoints hold beside tensors and can't act: argument lists and numpy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    return [
        argparse.Namespace,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 names it
        (scalar, "numpy._core.multiarray.scalar"),  # as numpy 2 does
        *{type(np.dtype(kind)) for kind in kinds},
    ]


def _refuse_tensors_longer_than_their_bytes(content: Any, path: Path) -> None:
    """A few stored bytes can be declared a tensor of any size; copying it would take the memory."""
    waiting = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            held = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
            if value.numel() * value.element_size() > held:
                raise WeightsError(
                    f"{path} declares {name.lstrip('.')} as {list(value.shape)} but holds only "
                    f"{held:,} bytes of it; save its state dict anew, as safetensors."
                )
        elif isinstance(value, Mapping):
            waiting += [(f"{name}.{key}", part) for key, part in value.items()]
