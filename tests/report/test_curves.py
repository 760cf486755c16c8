import json
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from endofm.errors import RunError
from endofm.report.curves import COLORS, PANELS, loss_curves, read_metrics


def falling(start, num_rows=5):
    keys = list(PANELS)
    return [{"step": 10 * n, **{key: start - n for key in keys}} for n in range(1, num_rows + 1)]


def texts(svg):
    return [
        "".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if "text" in node.tag
    ]


def lines(svg, color):
    return [
        path
        for path in re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*stroke: ([^;"]*)', svg)
        if path[1] == color
    ]


def test_rows_come_back_without_the_half_line_of_a_killed_run(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = falling(9.0)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 60, "lo')
    assert read_metrics(file) == rows


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo\n{"step": 3, "loss": 1}\n')
    with pytest.raises(RunError, match=r"Line 2 of .*metrics\.jsonl"):
        read_metrics(file)


def test_a_missing_file_is_told_in_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"can't be read .*; give the folder of a run"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_every_run_is_a_line_in_every_panel():
    svg = loss_curves({"seed 0": falling(9.0), "seed 1": falling(8.0)})
    for color in COLORS[:2]:
        assert len(lines(svg, color)) == len(PANELS) + 1  # and its line in the legend
    assert set(PANELS.values()) | {"seed 0", "seed 1"} <= set(texts(svg))


def test_a_falling_loss_falls_in_the_picture():
    svg = loss_curves({"": falling(9.0)})
    first, *_ = [path for path, _ in lines(svg, COLORS[0])]
    heights = [float(pair.split()[1]) for pair in re.split(r"[ML]", first) if pair.strip()]
    assert len(heights) == 5 and heights == sorted(heights)  # SVG counts downwards


def test_what_was_not_logged_is_said_not_drawn():
    svg = loss_curves({"": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}]})
    assert texts(svg).count("not logged") == len(PANELS) - 1


def test_names_of_runs_are_neither_markup_nor_mathematics():
    names = ["<script>alert(1)</script>", "_hidden", "cost $1$ & more"]
    svg = loss_curves({name: falling(9.0) for name in names})
    assert "<script>" not in svg
    assert set(names) <= set(texts(svg))


def test_drawing_leaves_the_global_settings_alone_and_repeats_itself():
    before = dict(mpl.rcParams)
    runs = {"": falling(9.0)}
    assert loss_curves(runs) == loss_curves(runs)
    assert dict(mpl.rcParams) == before
