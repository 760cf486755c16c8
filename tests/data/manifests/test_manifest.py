import os
import re
from pathlib import Path

import pytest

from endofm.cli import main
from endofm.data.manifests.manifest import Segment, read_manifest, write_manifest
from endofm.errors import ManifestError, OutputError
from tests.make import write_video


def written(folder: Path, text: str) -> Path:
    manifest = folder / "clips.csv"
    manifest.write_bytes(text.encode())
    return manifest


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(written(folder, text))
    message = str(caught.value)
    assert "clips.csv" in message and "\n" not in message and message.endswith((".", "?"))
    return message


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    segments = [
        Segment(tmp_path, "a/b.mp4", 0, 150, "patient, 1", "train", {"polyp": "1", "scene": ""}),
        Segment(
            tmp_path, 'ünï "quoted", 名.mp4', 150, 300, "p2", "val", {"polyp": "", "scene": "x"}
        ),
        Segment(tmp_path, " spaced .mp4", 3, None, "p3", "", {"polyp": "0", "scene": "y"}),
    ]
    manifest = tmp_path / "new" / "clips.csv"
    write_manifest(manifest, segments)
    assert read_manifest(manifest, root=tmp_path) == segments
    assert [file.name for file in manifest.parent.iterdir()] == ["clips.csv"]


def test_only_the_path_is_needed(tmp_path: Path) -> None:
    (segment,) = read_manifest(written(tmp_path, "path\na.mp4\n"))
    assert segment == Segment(tmp_path, "a.mp4", 0, None, "a.mp4", "", {})
    assert segment.file == tmp_path / "a.mp4"
    assert segment.num_frames is None


def test_a_spreadsheets_mark_and_line_ends_are_accepted(tmp_path: Path) -> None:
    (segment,) = read_manifest(
        written(tmp_path, "\ufeffpath,start_frame,stop_frame\r\na.mp4, 5 ,9\r\n\r\n")
    )
    assert (segment.start_frame, segment.stop_frame, segment.num_frames) == (5, 9, 4)


def test_the_name_tells_the_stretch() -> None:
    root = Path("/data")
    assert Segment(root, "v.mp4").name == "v.mp4"
    assert Segment(root, "v.mp4", 5, 9).name == "v.mp4[5:9]"
    assert Segment(root, "v.mp4", 5).name == "v.mp4[5:]"


def test_the_key_depends_on_the_clip_alone() -> None:
    key = Segment(Path("/data"), "v.mp4", 5, 9).key
    assert key == Segment(Path("/elsewhere"), "v.mp4", 5, 9, "group", "train").key
    assert key == 16894117305227311028  # for ever: orders of runs hang on it
    assert key != Segment(Path("/data"), "v.mp4", 5, 10).key


def test_one_path_has_one_spelling(tmp_path: Path) -> None:
    (segment,) = read_manifest(written(tmp_path, "path\n./a//b.mp4\n"))
    assert segment.path == segment.group == "a/b.mp4"
    assert "twice" in refusal(tmp_path, "path\na.mp4\n./a.mp4\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'path'"),
        ("file\na.mp4\n", r"no column 'path'.*found: file"),
        ("path\n", "no rows"),
        ("path,start_frme\na,1\n", "did you mean 'start_frame'"),
        ("path,polyp\na,1\n", "begins with 'label_'"),
        ("path,label_\na,1\n", "unknown column 'label_'"),
        ("path,path\na,b\n", "a column twice"),
        ("path,split\na\n", "line 2 .*as many values"),
        ("path,split\na,b,c\n", "line 2 .*as many values"),
        ("path,split\n,train\n", "line 2 has an empty path"),
        ("path,split\n  ,train\n", "line 2 has an empty path"),
        ("path\n/etc/passwd\n", "leaves its root"),
        ("path\nC:\\videos\\a.mp4\n", "leaves its root"),
        ("path\na/../../b.mp4\n", "leaves its root"),
        ("path,masks\na.mp4,m\0\n", r"line 2: the path 'm\\x00' has a NUL in it"),
        ("path,start_frame\na,-1\n", "line 2: start_frame is '-1'"),
        ("path,start_frame\na,1.5\n", "line 2: start_frame is '1.5'"),
        ("path,start_frame,stop_frame\na,5,5\n", "stop_frame 5 is not after start_frame 5"),
        ("path,start_frame,stop_frame\na,0,5\na,0,5\n", "clip a\\[0:5\\] twice"),
        ('path\n"a\n', "not a UTF-8 CSV table"),
    ],
)
def test_faults_are_named_with_their_place(text: str, says: str, tmp_path: Path) -> None:
    assert re.search(says, refusal(tmp_path, text))


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_bytes("path\nü.mp4\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(manifest)


def test_absent_manifests_and_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="endofm manifest FOLDER"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(ManifestError, match=r"root folder .* does not exist"):
        read_manifest(written(tmp_path, "path\na\n"), root=tmp_path / "absent")
    with pytest.raises(ManifestError, match=r"can't be read \(File name too long\); correct"):
        read_manifest(tmp_path / ("x" * 300))


def test_for_a_folder_the_command_that_makes_its_manifest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "good" / "v.mp4", 5, (48, 64))
    monkeypatch.chdir(tmp_path)
    for folder, named in (("good", "endofm manifest good good.csv"), (".", "manifest . clips.csv")):
        with pytest.raises(ManifestError, match=f"{folder} is a folder; .*`.*{named}` makes"):
            read_manifest(Path(folder))
    main(["manifest", "good", "good.csv"])
    assert [segment.path for segment in read_manifest(Path("good.csv"))] == ["good/v.mp4"]


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").touch()
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    assert "link that leaves its root" in refusal(root, "path\nlink.mp4\n")
    (root / "inside.mp4").symlink_to(root / "real.mp4")
    assert len(read_manifest(written(root, "path\ninside.mp4\n"))) == 1


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = written(tmp_path, "path\nold.mp4\n")

    def full_disk(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OutputError, match=r"can't be written \(No space left"):
        write_manifest(manifest, [Segment(tmp_path, "new.mp4")])
    assert read_manifest(manifest)[0].path == "old.mp4"
    assert [file.name for file in tmp_path.iterdir()] == ["clips.csv"]
