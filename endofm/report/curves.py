"""Curves of runs: metrics.jsonl in, one SVG of small panels out."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endofm.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "loss": "loss",
    "cross_view": "loss, cross-view",
    "dynamic": "loss, dynamic",
    "learning_rate": "learning rate",
    "teacher_entropy": "teacher entropy",
    "marginal_entropy": "marginal entropy",
    "feature_std": "feature spread",
    "rankme": "effective rank",
    "knn_accuracy": "k-NN accuracy",
    "gradient_norm": "gradient norm",
}
"""Columns of metrics.jsonl that are drawn, and how their panels are called."""

COLORS = ("#0084c8", "#e06c00", "#009e73", "#cc5f9c", "#8a6fd1", "#a8841a")
INK = "#010203"
"""Stands for the page's own text colour, so that the curves follow a light or dark page."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "endofm",
    "font.size": 9,
    "axes.titlesize": 9.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
}


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; half a last line, as a killed run leaves it, is passed over.

    Raises `RunError` for a file that can't be read, or a row before the last that is no row.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RunError(
            f"{path} can't be read ({error.strerror}); give the folder of a run that has logged."
        ) from error
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise RunError(f"Line {number} of {path} is no row of metrics; delete that line.")
    return rows


def loss_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """An inline SVG with a panel for every quantity of `PANELS`; each run (seed) is a thin line.

    `runs` has the rows of metrics.jsonl under a name. What no run has logged says so in its panel.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(12, 4.7), layout=layout)
        panels = figure.subplots(2, len(PANELS) // 2).flat
        for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
            _draw(panel, key, title, runs)
        figure.supxlabel("step", x=0.99, horizontalalignment="right", fontsize=9)
        if len(runs) > 1:
            _name_runs(figure, list(runs))
        return _svg(figure)


def reject_curve(points: Sequence[tuple[float, float]]) -> str:
    """An inline SVG of (share rejected, accuracy of the rest), both from 0 to 1."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shares, accuracies = zip(*points, strict=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        axes.plot(shares, accuracies, color=_color(0), lw=1.4, marker="o", ms=2.5)
        axes.set(xlabel="share rejected", ylabel="accuracy of the rest")
        return _svg(figure)


def _row(line: str) -> dict[str, float] | None:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _draw(
    panel: "Axes", key: str, title: str, runs: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    panel.set_title(title, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.patch.set_visible(False)
    panel.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    panel.locator_params(nbins=4)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    is_empty = True
    for number, rows in enumerate(runs.values()):
        points = [(row["step"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
        if points:
            is_empty = False
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) == 1 else ""
            panel.plot(steps, values, color=_color(number), lw=1.1, marker=marker, ms=3)
    if is_empty:
        panel.set_axis_off()
        panel.text(0.0, 0.85, "not logged", transform=panel.transAxes, alpha=0.6)


def _name_runs(figure: "Figure", names: list[str]) -> None:
    """One legend for all panels; a name is shown as it is, not read as mathematics."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_color(number), lw=2) for number in range(len(names))]
    labels = [f" {name}" for name in names]  # matplotlib hides labels that begin with _
    legend = figure.legend(
        lines, labels, loc="outside lower left", ncols=min(len(names), 6), frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _svg(figure: "Figure") -> str:
    """The figure as an element to stand in a page: no prologue, no metadata, no background."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :].strip().replace(INK, "currentColor")
