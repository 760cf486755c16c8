"""The measurement for people: tables (which are Markdown too) and sentences."""

import math
from collections.abc import Iterator, Sequence

from endofm.bench.data_path import PARTS as DATA_PARTS
from endofm.bench.measure import StepTime
from endofm.bench.plan import REFERENCE
from endofm.bench.run import Result
from endofm.bench.steps import PARTS


def tell(result: Result) -> str:
    """The whole report."""
    views = ", ".join(f"{frames} x {pixels}" for frames, pixels in result.views)
    blocks = [
        f"{result.model}, {result.batch_size} clip(s) a step of {len(result.views)} views (frames "
        f"x pixels: {views}), on {result.machine}. Seconds are "
        + ("the clock's." if result.time_of == "wall" else "the processor's, by thread."),
        *_step_tables(result),
        *([_memory_table(result)] if result.memory else []),
        _data_table(result),
        "\n".join(sentences(result)),
    ]
    return "\n\n".join(blocks) + "\n"


def _step_tables(result: Result) -> Iterator[str]:
    base = result.step(REFERENCE)
    assert base is not None
    rows = []
    for one in result.steps:
        clips = result.batch_size / one.seconds
        speed = clips * result.clip_flops
        rows.append(
            [
                one.way.name,
                f"{one.seconds:.3g}",
                f"{base.seconds / one.seconds:.2f}",
                f"{clips:.3g}",
                f"{speed / 1e12:.3g}",
                f"{100 * speed / result.peak_flops[one.way.precision]:.0f} %",
            ]
        )
    head = ["step", "seconds", "times the reference", "clips/s", "TFLOP/s", "share of peak"]
    yield table(head, rows)
    yield table(
        ["seconds", *PARTS],
        [[one.way.name, *(f"{one.parts[part]:.3g}" for part in PARTS)] for one in result.steps],
    )


def _memory_table(result: Result) -> str:
    base = result.memory[REFERENCE]
    rows = [
        [way.name, f"{peak / 2**30:.2f}", f"{peak / base:.2f}"]
        for way, peak in result.memory.items()
    ]
    return table(["peak memory", "GiB", "share of the reference"], rows)


def _data_table(result: Result) -> str:
    data = result.data
    rows = []
    for name, parts, size in (
        ("ours", data.ours, data.bytes_of_ours),
        ("reference", data.reference, data.bytes_of_reference),
    ):
        total = sum(parts.values())
        cells = [f"{1000 * parts[part]:.1f}" for part in DATA_PARTS]
        rows.append([name, *cells, f"{1000 * total:.1f}", f"{1 / total:.3g}", f"{size / 1e6:.2f}"])
    head = ["ms of a core, a clip", *DATA_PARTS, "all", "clips/s a core", "MB"]
    return table(head, rows)


def sentences(result: Result) -> Iterator[str]:
    """What the figures mean: ratios of the data path, what limits a run, how long it takes."""
    data, best = result.data, best_step(result)
    ours, plain = data.ours, data.reference
    with_decoding = [sum(p[part] for part in ("open", "decode", "views")) for p in (plain, ours)]
    speeds = result.peak_flops
    if not any(one.way.precision == "bf16" for one in result.steps):
        yield (
            "Steps in bf16 are left out: its matrix products run at "
            f"{speeds['bf16'] / speeds['no']:.2g} times the speed of float32 ones here, so they "
            "would take longer, not shorter."
        )
    yield (
        f"Views are cut {plain['views'] / ours['views']:.1f} times as fast as the reference's, and "
        f"{with_decoding[0] / with_decoding[1]:.1f} times with decoding ({data.clip})."
    )
    step = best.seconds / result.batch_size
    core = sum(ours.values())
    workers = math.ceil(core / step)
    yield (
        f"A clip's step takes {step:.3g} s ({best.way.name}), its data {core:.3g} s of a core: "
        + (
            f"data limits a run with fewer than {workers} workers; give --data.workers {workers} "
            "or more, or prepare smaller videos (docs/speed.md)."
            if workers > 1
            else f"the step limits a run, and one worker keeps up ({core / step:.1%} of its time)."
        )
    )
    clips = result.clips * result.epochs
    yield (
        f"{result.epochs:g} epochs of {result.clips} clips take {duration(clips * step)} here, if "
        "data keeps up."
    )


def best_step(result: Result) -> StepTime:
    """Our fastest way in the recipe's precision; in float32 where bf16 was left out."""
    ours = [one for one in result.steps if one.way.code == "ours"]
    alike = [one for one in ours if one.way.precision == result.run_precision]
    return min(alike or ours, key=lambda one: one.seconds)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns, as Markdown."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, rule, *rows]
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the unit a person would take."""
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 60:.3g} minutes"
