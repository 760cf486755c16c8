import pytest

from endofm.cli import main
from endofm.data.manifests.manifest import read_manifest
from tests.make import write_video


def prepare(source, out, *more):
    words = ["corpus", "prepare", "--dataset", "own_folder", "--source", source, "--out", out]
    main([str(word) for word in (*words, "--workers", 1, *more)])


def test_preparing_says_what_came_of_it(tmp_path, capsys):
    write_video(tmp_path / "in/a.mp4", 40)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out", "--clip-seconds", 1, "--crf", 30)
    said = capsys.readouterr().out
    assert "left out: " in said and "is a link that leads back" in said
    assert "has 1 clips, 40 frames, of 1 sources; 1 sources were written now" in said
    assert f"Its manifest is {tmp_path}/out/manifest.csv." in said
    assert len(read_manifest(tmp_path / "out/manifest.csv")) == 1


def test_shards_are_merged_by_a_command(tmp_path, capsys):
    for number in range(2):
        write_video(tmp_path / f"in/{number}.mp4", 10)
    prepare(tmp_path / "in", tmp_path / "out", "--shard", "1/2")
    assert f"This is shard 1/2; when all are done: endofm corpus merge {tmp_path}/out" in (
        capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        main(["corpus", "merge", str(tmp_path / "out")])
    assert "run prepare again with --shard 2/2" in capsys.readouterr().err
    prepare(tmp_path / "in", tmp_path / "out", "--shard", "2/2")
    main(["corpus", "merge", str(tmp_path / "out")])
    assert "All shards are whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "two"], "shard is 'two'; write i/n"),
        (["--crf", "99"], "crf is 99"),
        (["--dataset", "sun-seg"], "did you mean sun_seg"),
    ],
)
def test_what_can_not_be_meant_is_one_sentence(tmp_path, capsys, words, said):
    write_video(tmp_path / "in/a.mp4", 4)
    with pytest.raises(SystemExit):
        prepare(tmp_path / "in", tmp_path / "out", *words)
    told = capsys.readouterr().err
    assert said in told.replace("\n", " ") and "Traceback" not in told
    assert not (tmp_path / "out").exists()
