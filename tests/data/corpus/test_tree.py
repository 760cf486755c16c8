import io
import tarfile
import zipfile

import pytest

from endofm.data.corpus.tree import Tree
from endofm.errors import CorpusError, VideoError
from tests.data.corpus.originals import write_tree, zipped

FILES = {"b/frame_10.png": b"ten", "b/frame_2.png": b"two", "a/x.mp4": b"film", "a/note.txt": "n"}


def tarred(folder, archive, mode="w"):
    with tarfile.open(archive, mode) as file:
        file.add(folder, arcname=".")
    return archive


def test_names_come_in_natural_order_whatever_the_order_on_disk(tmp_path):
    tree = Tree(write_tree(tmp_path, FILES))
    assert tree.names() == ["a/note.txt", "a/x.mp4", "b/frame_2.png", "b/frame_10.png"]
    assert tree.pictures("b") == ["b/frame_2.png", "b/frame_10.png"]
    assert tree.videos() == ["a/x.mp4"] and tree.base("frame_2.png") == "b/"


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_read_as_if_it_were_unpacked(tmp_path, pack):
    plain = Tree(write_tree(tmp_path / "plain", FILES))
    archive = pack(plain.root, tmp_path / f"d.{'zip' if pack is zipped else 'tar'}")
    packed = Tree(archive)
    assert packed.names() == plain.names()
    for name in plain.names():
        assert packed[name].read_bytes() == plain[name].read_bytes()
        packed[name].copy_to(tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == plain[name].read_bytes()
    assert packed["b/frame_2.png"].name == "frame_2.png" and packed["a/x.mp4"].size == 4


def test_archives_in_a_folder_are_part_of_it_and_what_is_unpacked_comes_first(tmp_path):
    zipped(write_tree(tmp_path / "plain", FILES), tmp_path / "d.zip")
    write_tree(tmp_path, {"b/frame_2.png": b"new"})
    tree = Tree(tmp_path)
    assert tree["b/frame_2.png"].read_bytes() == b"new" and tree["b/frame_10.png"].inside


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.png", "a/../../up.png", "C:\\up.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_lead_out_of_their_archive_are_refused(tmp_path, name, kind):
    archive = tmp_path / f"d.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as file:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            file.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(CorpusError, match="leads out of it; such an archive is refused"):
        Tree(archive)


def test_half_an_archive_says_so(tmp_path):
    plain = write_tree(tmp_path / "plain", {"a.png": b"x" * 5000, "b.png": b"y" * 5000})
    for archive in (zipped(plain, tmp_path / "d.zip"), tarred(plain, tmp_path / "d.tar")):
        archive.write_bytes(archive.read_bytes()[:6000])
        with pytest.raises(CorpusError, match=r"not a whole archive .* half way: fetch it again"):
            Tree(archive)


def test_an_encrypted_archive_says_what_to_do(tmp_path):
    archive = zipped(write_tree(tmp_path / "plain", {"a.png": b"x"}), tmp_path / "d.zip")
    data = bytearray(archive.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(CorpusError, match="is encrypted; unpack it with its password"):
        Tree(archive)


def test_a_member_packed_by_an_unknown_method_is_named(tmp_path):
    archive = zipped(write_tree(tmp_path / "plain", {"a.png": b"x"}), tmp_path / "d.zip")
    data = bytearray(archive.read_bytes())
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.rfind(header) + place] = 97  # WavPack, which zipfile can't unpack
    archive.write_bytes(data)
    member = Tree(archive)["a.png"]
    for take in (member.read_bytes, lambda: member.copy_to(tmp_path / "copy")):
        with pytest.raises(VideoError, match=r"a.png can't be .*fetch the archive again"):
            take()


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    write_tree(tmp_path / "disk", {"real.png": b"x"})
    write_tree(tmp_path / "in", {"a/y.png": b"y"})
    (tmp_path / "in/a/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/far").symlink_to(tmp_path / "disk")
    (tmp_path / "in/lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    tree = Tree(tmp_path / "in")
    assert tree.names() == ["a/y.png", "far/real.png"]
    said = "\n".join(tree.left_out)
    assert "a/loop is a link that leads back to" in said and "lost.png is a link that leads" in said
    assert "self" in said and len(tree.left_out) == 3


def test_what_is_compressed_as_a_whole_is_named(tmp_path):
    plain = write_tree(tmp_path / "plain", FILES)
    tarred(plain, tmp_path / "in.tar.gz", "w:gz")
    tree = Tree(tmp_path)
    assert "in.tar.gz is compressed as a whole" in tree.left_out[0] and len(tree) == len(FILES)


def test_a_path_that_is_no_download_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="is not a folder or a zip or tar archive"):
        Tree(tmp_path / "absent")
