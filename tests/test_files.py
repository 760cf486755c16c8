"""The one writer: complete, on the disk, or not at all; and what is left behind."""

import csv
import errno
import multiprocessing
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from endofm import files
from endofm.errors import OutputError, RunError
from endofm.files import hold, new_file, new_folder, write_bytes, write_csv, write_text

ROOT = Path(__file__).parents[1]
FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_once_it_is_complete(tmp_path):
    with new_file(tmp_path / "a" / "x.txt") as part:
        part.write_text("half")
        assert names(tmp_path / "a") == ["x.txt.part"]
    assert names(tmp_path / "a") == ["x.txt"]


@pytest.mark.parametrize("error", [FULL, ValueError("ours"), KeyboardInterrupt()])
def test_whatever_ends_the_writing_leaves_the_older_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "x", "old")
    expected = OutputError if error is FULL else type(error)
    with pytest.raises(expected), new_file(tmp_path / "x") as part:
        part.write_text("half")
        raise error
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_a_folder_is_replaced_by_a_complete_one_or_stays(tmp_path):
    for number in range(2):
        with new_folder(tmp_path / "masks") as part:
            (part / f"{number}.png").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"masks can't be written \(No space left"):  # noqa: SIM117
        with new_folder(tmp_path / "masks") as part:
            (part / "2.png").write_bytes(b"x")
            raise FULL
    assert names(tmp_path) == ["masks"] and names(tmp_path / "masks") == ["1.png"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush", lambda path: flushed.append((path.name, names(tmp_path))))
    write_text(tmp_path / "x", "new")
    assert flushed == [("x.part", ["x.part"]), (tmp_path.name, ["x"])]
    flushed.clear()
    with new_folder(tmp_path / "d") as part:
        (part / "1").write_bytes(b"1")
    assert [name for name, _ in flushed] == ["1", "d.part", tmp_path.name]
    assert "d" not in flushed[1][1] and "d" in flushed[2][1]


def test_a_sentence_names_the_place_the_reason_and_the_way_out(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/x can't be written \(.+\); go elsewhere\.$"):
        write_text(tmp_path / "file" / "x", "x", "go elsewhere")


def test_a_full_disk_is_told_for_safetensors_too(tmp_path):
    if os.name != "posix" or not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    from safetensors import SafetensorError

    with pytest.raises(OutputError, match=r"w can't be written \(.*full"):  # noqa: SIM117
        with new_file(tmp_path / "w") as part:
            save_file({"a": torch.zeros(3)}, part)
            raise SafetensorError("the disk is full")
    assert names(tmp_path) == []


def test_a_fault_of_what_is_read_meanwhile_is_not_called_one_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "x") as part:
        part.write_bytes((tmp_path / "elsewhere" / "source").read_bytes())


def test_what_a_killed_program_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "x.part").mkdir()
    (tmp_path / "y.part").write_text("half")
    write_text(tmp_path / "x", "new")
    write_bytes(tmp_path / "y", b"new")
    assert names(tmp_path) == ["x", "y"]


def write_many(path):
    for number in range(50):
        with new_file(path, shared=True) as part:
            part.write_text(f"{number}\n" * 2000)


def test_processes_that_write_the_same_file_never_mix(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path / "x",)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    lines = (tmp_path / "x").read_text().split()
    assert set(lines) == {"49"} and len(lines) == 2000 and names(tmp_path) == ["x"]


def test_a_table_is_written_row_by_row(tmp_path):
    write_csv(tmp_path / "t.csv", ("a", "b"), ([n, 'with, "comma"'] for n in range(3)))
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["a", "b"],
            *[[str(n), 'with, "comma"'] for n in range(3)],
        ]


def try_to_hold(lock, answer):
    try:
        hold(lock, "taken; wait.").close()
        answer.put("held")
    except RunError as error:
        answer.put(str(error))


def test_a_lock_keeps_other_processes_out_until_it_is_closed(tmp_path):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    lock = hold(tmp_path / "run" / ".lock", "taken; wait.")
    for expected in ("taken; wait.", "held"):
        other = context.Process(target=try_to_hold, args=(tmp_path / "run" / ".lock", answer))
        other.start()
        assert answer.get(timeout=60) == expected
        other.join()
        lock.close()


def test_nobody_else_renames_or_flushes():
    own = {"endofm/files.py", "endofm/training/checkpoint.py"}  # whose parts accelerate writes
    wrong = []
    for folder in ("endofm", "pretrain", "finetune"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if re.search(
                r"\.part\"|os\.replace|os\.fsync|fcntl|np\.savez\w*\((?!\w*open|file)", text
            ):
                wrong.append(path.relative_to(ROOT).as_posix())
    assert set(wrong) <= own, set(wrong) - own
