from pathlib import Path

import pytest

from endofm.cli import main
from endofm.data.manifests.mix import find_sources, read_mix
from endofm.data.pretraining.dataset import load_corpus
from endofm.errors import ConfigError
from pretrain.__main__ import read_command
from tests.small import write_corpus

PAPER = Path(__file__).parents[3] / "data_manifests" / "mixes" / "endofm.yaml"


def write_mix(folder, text):
    (folder / "mix.yaml").write_text(text, encoding="utf-8")
    return folder / "mix.yaml"


def test_a_mix_becomes_a_recipe_that_pretraining_reads(tmp_path, capsys):
    write_corpus(tmp_path / "colonoscopic", num_clips=3)
    write_corpus(tmp_path / "ours", num_clips=2)
    mix = write_mix(
        tmp_path,
        "sources:\n- {dataset: colonoscopic}\n- {dataset: sun}\n"
        "- {dataset: mine, manifest: ours/manifest.csv, weight: 0.5}\n",
    )
    out = tmp_path / "recipe.yaml"
    base = "pretrain/configs/vits16.yaml"
    main(["corpus", "mix", str(mix), str(out), "--root", str(tmp_path), "--recipe", base])
    recipe = read_command(["--config", str(out)]).recipe
    assert recipe.data.weights == (1.0, 0.5)
    assert [len(part) for part in load_corpus(recipe.data).parts] == [3, 2]
    plain = read_command(["--config", base]).recipe
    assert (recipe.optim, recipe.views) == (plain.optim, plain.views)
    told = capsys.readouterr().out
    assert "absent: sun (" in told and "endofm corpus prepare --dataset sun" in told
    assert "# Absent: sun" in out.read_text(encoding="utf-8")


def test_the_mix_of_the_paper_names_every_source_and_the_private_part(tmp_path):
    mix = read_mix(PAPER)
    assert len(mix.sources) == 7 and "Renji" in mix.missing[0]
    write_corpus(tmp_path / "sun", num_clips=2)
    mixed = find_sources(mix, tmp_path)
    assert mixed.num_clips == (2,) and len(mixed.absent) == 6
    assert all("http" in sentence for sentence in mixed.absent)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: []", "is no mix"),
        ("sources: [", "is not YAML"),
        ("sources: [{dataset: a}]\nsource: b", "is no mix"),
        ("sources: [{dataset: a, wieght: 1}]", "dataset, manifest and weight"),
        ("sources: [{dataset: a, weight: 0}]", "weight of a is 0"),
        ("sources: [{dataset: a}, {dataset: a}]", "twice"),
    ],
)
def test_a_malformed_mix_is_refused_with_its_name(tmp_path, text, words):
    with pytest.raises(ConfigError, match=rf"mix\.yaml.*{words}"):
        read_mix(write_mix(tmp_path, text))


def test_a_mix_without_any_source_on_the_disk_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"No source of the mix .* colonoscopic .* get it from"):
        find_sources(read_mix(PAPER), tmp_path)
