import gzip
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from endofm.errors import WeightsError
from endofm.models.loading.weight_files import MAX_HEADER_BYTES, read_content

TENSORS = {"norm.weight": torch.ones(3)}


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_content(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


def test_formats_are_told_by_content_and_not_by_suffix(tmp_path):
    save_file(TENSORS, tmp_path / "a.pth")
    torch.save(TENSORS, tmp_path / "b.safetensors")
    torch.save(TENSORS, tmp_path / "c.pth.tar")
    torch.save(TENSORS, tmp_path / "d.pyth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.safetensors", "c.pth.tar", "d.pyth"):
        assert torch.equal(read_content(tmp_path / name)["norm.weight"], torch.ones(3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(b"weights", mtime=0), "gzip"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (json.dumps({"error": "Not found"}).encode(), "JSON text"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, says):
    (tmp_path / "weights.pth").write_bytes(content)
    assert says in refusal(tmp_path / "weights.pth")


def test_a_tar_file_of_the_first_pytorch_is_named_with_a_way_out(tmp_path):
    (tmp_path / "pickle").write_bytes(b"\x80\x02.")
    with tarfile.open(tmp_path / "weights.pth", "w") as archive:
        archive.add(tmp_path / "pickle", "pickle")
    told = refusal(tmp_path / "weights.pth")
    assert "is a tar file" in told and "before 0.1.10" in told and "save its state dict" in told


def test_archives_that_torch_did_not_write_are_refused(tmp_path):
    np.savez(tmp_path / "vit.npz", kernel=np.ones(3))
    assert "NumPy arrays (JAX's weights?)" in refusal(tmp_path / "vit.npz")
    with zipfile.ZipFile(tmp_path / "some.pth", "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")
    assert "is an archive, not what torch.save writes" in refusal(tmp_path / "some.pth")


def test_a_compressed_archive_cannot_unpack_to_more_than_it_is(tmp_path):
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    assert "is a compressed archive" in refusal(tmp_path / "bomb.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "program.pt")


@pytest.mark.parametrize("header_bytes", [MAX_HEADER_BYTES + 1, 2**63])
def test_a_safetensors_header_of_absurd_length_is_refused_before_it_is_read(tmp_path, header_bytes):
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", header_bytes) + b"{}")
    assert f"claims a header of {header_bytes:,} bytes" in refusal(tmp_path / "weights.safetensors")


def test_a_header_longer_than_the_file_is_a_file_cut_off(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", 5000) + b'{"a": ')
    assert "longer than the file" in refusal(tmp_path / "weights.safetensors")


def test_a_tensor_longer_than_its_bytes_is_refused(tmp_path):
    one = torch.ones(1).expand(10_000, 10_000)
    torch.save({"model": {"weight": one}}, tmp_path / "weights.pth")
    told = refusal(tmp_path / "weights.pth")
    assert "declares model.weight as [10000, 10000] but holds only 4 bytes" in told
