"""What a fine-tuning recipe comes to on its rows and a number of processes."""

from dataclasses import dataclass, replace

import torch

from endofm.data.labelled.clips import evaluation_rows
from endofm.data.labelled.rows import check_files, check_rows, load_rows, refuse_missing
from endofm.data.labelled.samples import CLASSIFICATION, ClipSpec
from endofm.data.manifests.labels import Truth, check_trained, count_classes, truth_of
from endofm.data.manifests.manifest import Segment
from endofm.data.manifests.splits import Splits, draw_balanced, take_share
from endofm.data.pretraining.dataset import Corpus
from endofm.data.pretraining.loader import BatchPlan
from endofm.errors import ConfigError
from endofm.models.rpa3d import RPA3D
from endofm.models.stfm import STFM
from endofm.models.timesformer import TimeSformer
from endofm.models.vipttnet import ViPTTNet
from endofm.tasks.finetuning.contract import Task
from endofm.tasks.finetuning.starting import Start, find_start, start_task
from endofm.tasks.finetuning.trainable import trained_share
from endofm.training.estimate import (
    cnn_step_bytes,
    device_memory,
    frames_step_bytes,
    slow_bf16,
    step_bytes,
)
from endofm.training.finetuning import TuneSchedule

from .config import FinetuneConfig

MAX_VALIDATIONS = 50
"""A run of more epochs validates after every few."""


@dataclass(frozen=True)
class Material:
    """Rows and classes of a recipe, checked; the same for every seed."""

    splits: Splits
    classes: tuple[str, ...]
    lost: int
    """Training rows whose file is missing."""
    dropped: int
    """Rows that the quarantine list beside a manifest names."""


def gather_material(config: FinetuneConfig) -> Material:
    """Read and check every row; see `load_rows`, `check_rows` and `check_files` for what raises.

    Where every seed draws its rows, the material has all of them as training rows.
    """
    task, lost = config.task, 0
    splits, dropped = load_rows(config.data, task.kind, task.is_legacy, task.draws)
    if task.draws:  # any row may come to be tested
        refuse_missing(splits.all)
    else:
        lost = check_files(splits, config.data.max_broken_share)
    classes = check_rows(splits, config.data, task.kind)
    material = Material(splits, classes, lost, dropped)
    cut = splits_of_run(config, material).cut
    return replace(material, splits=replace(splits, cut=cut))


def splits_of_run(config: FinetuneConfig, material: Material) -> Splits:
    """The rows of the first seed: those of every seed, or what it draws from them."""
    if not config.task.draws:
        return material.splits
    label, rows = config.data.label, material.splits.train
    return draw_balanced(
        rows, config.data.val_share, config.run.seeds[0], lambda row: row.labels[label]
    )


def remarks(material: Material) -> list[str]:
    """Sentences about rows that take no part, and about how validation came to be."""
    told = []
    if material.splits.cut:
        told.append(f"{'Validation' if material.splits.val else 'Draws'}: {material.splits.cut}.")
    if material.dropped:
        told.append(f"{material.dropped} rows are quarantined beside the manifest and left out.")
    if material.lost:
        told.append(f"{material.lost} training rows have no file, or one of no bytes.")
    return told


def make_clip_spec(config: FinetuneConfig, material: Material, start: Start) -> ClipSpec:
    """What is shown of a row: as asked for, else what the weights are made for."""
    frames, pixels = config.data.frames or start.frames, config.data.pixels or start.pixels
    patch = start.encoder.patch_pixels
    if pixels % patch or pixels < 2 * patch:
        raise ConfigError(
            f"data.pixels is {pixels}, but the network divides a frame into squares of {patch}; "
            "give a multiple of it, at least twice."
        )
    legacy = config.task.protocol == "legacy_polypdiag"
    return ClipSpec(config.task.kind, material.classes, config.data, frames, pixels, legacy)


@dataclass(frozen=True)
class Plan:
    """Rows, steps and batches of one run."""

    splits: Splits
    corpus: Corpus
    """The training rows, in as many parts as are to be shown equally often."""
    truths: tuple[Truth, ...]
    """Of the training rows of a classification."""
    batches: BatchPlan
    schedule: TuneSchedule
    validate_every: int
    """Steps from a validation to the next."""

    @property
    def steps(self) -> int:
        """Optimizer updates in all."""
        return self.schedule.steps

    @property
    def global_batch(self) -> int:
        """Clips of a step over all processes."""
        return self.batches.global_batch

    def validates_after(self, step: int) -> bool:
        """Whether a validation, and a checkpoint, follow this step."""
        return (step + 1) % self.validate_every == 0 or step + 1 == self.steps


def make_plan(config: FinetuneConfig, material: Material, rank: int, world: int) -> Plan:
    """Take the share of rows, and turn epochs into steps, once; `config` is that of one run."""
    (share,), (seed,), optim = config.data.label_share, config.run.seeds, config.optim
    label, kind = config.data.label, config.task.kind
    several = kind == "multi_label"

    def kind_of(row: Segment) -> object:
        return row.labels.get(label, "") if kind in CLASSIFICATION else ""

    whole = splits_of_run(config, material)
    train = take_share(whole.train, share, seed, kind_of)
    train, val, test = (
        tuple(evaluation_rows(part, config.data.every_frames))
        for part in (train, whole.val, whole.test)
    )
    splits = replace(whole, train=train, val=val, test=test)
    truths: tuple[Truth, ...] = ()
    if kind in CLASSIFICATION:
        truths = tuple(truth_of(row, label, material.classes, several) for row in splits.train)
        check_trained(truths, material.classes)
    parts: tuple[tuple[Segment, ...], ...] = (splits.train,)
    weights: tuple[float, ...] = (1.0,)
    if config.task.balance == "sampling":
        numbers = range(len(material.classes))
        parts = tuple(
            tuple(row for row, truth in zip(splits.train, truths, strict=True) if truth == number)
            for number in numbers
        )
        mean = len(splits.train) / len(parts)
        weights = tuple(mean / len(part) for part in parts)
    corpus = Corpus(parts, weights)
    batches = BatchPlan(optim.batch_size, optim.accumulate, rank, world)
    # A small share of the rows must not make a step impossible: an epoch is at least one step.
    per_epoch = max(1, sum(corpus.takes) // batches.global_batch)
    steps = max(1, round(optim.epochs * per_epoch))
    epochs_between = max(1, round(optim.epochs / MAX_VALIDATIONS))
    schedule = TuneSchedule(
        steps=steps,
        steps_per_epoch=per_epoch,
        learning_rate=optim.lr_per_256 * batches.global_batch / 256,
        warmup_steps=round(optim.warmup_epochs * per_epoch),
        weight_decay=optim.weight_decay,
        is_poly=config.task.protocol == "legacy_cvc12k",
    )
    return Plan(splits, corpus, truths, batches, schedule, per_epoch * epochs_between)


def explain(config: FinetuneConfig, material: Material) -> str:
    """What the runs will do, in words; the network is built and nothing is trained."""
    data, optim = config.data, config.optim
    start = find_start(config.weights, config.model, data.frames, data.pixels)
    clip_spec = make_clip_spec(config, material, start)
    plan = make_plan(config.only(data.label_share[0], config.run.seeds[0]), material, 0, 1)
    task, _ = start_task(
        start,
        clip_spec,
        config.task,
        config.model,
        config.tuning,
        plan.truths,
        config.reset_head,
    )
    splits = splits_of_run(config, material)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = [
        f"task             {config.task.kind}: {', '.join(material.classes)}",
        *(_rows(name, rows) for name, rows in _parts(splits)),
        *(f"mind             {remark}" for remark in remarks(material)),
        *_counts(config, material.classes, splits),
        f"weights          {start.told}",
        f"trained          {_trained(config, task)}",
        f"clips            {clip_spec.frames} frames of {clip_spec.pixels} px, {_taken(config)}",
        f"training clips   {_drawn(config)}",
    ]
    if config.tuning.trains:
        lines += [
            f"batch            {plan.global_batch} clips a step = {optim.batch_size} x "
            f"{optim.accumulate} accumulated x {plan.batches.world} processes",
            f"steps            {plan.steps} ({optim.epochs:g} epochs of "
            f"{plan.schedule.steps_per_epoch}), a validation every {plan.validate_every}",
            f"learning rate    {plan.schedule.learning_rate:.3g} ({optim.kind}) after "
            f"{plan.schedule.warmup_steps} steps of warm-up",
            f"memory           about {step_memory(config, task) / 2**30:.1f} GiB a step, of "
            f"{device_memory(device) / 2**30:.0f} on {device.type}",
            f"chosen by        {task.selects_by} on "
            + ("the TEST rows (legacy)" if config.task.is_legacy else "validation"),
        ]
    runs = len(config.run.seeds) * len(data.label_share)
    shares = ", ".join(f"{share:g}" for share in data.label_share)
    lines += [
        f"runs             {runs}: seeds {', '.join(map(str, config.run.seeds))}; shares of the "
        f"labels {shares}",
        f"writes to        {config.run.out}",
    ]
    if slow := slow_bf16(device, config.run.precision):
        lines.append(f"mind             {slow}")
    return "\n".join(lines)


def step_memory(config: FinetuneConfig, task: Task) -> float:
    """Bytes of a step, about: weights, gradients and moments of what trains, and activations.

    The activations of the backbone's blocks, whatever is frozen; heads come on top.
    """
    trained, every = trained_share(task.network)
    shown, encoder = task.clip_spec, task.encoder
    half, batch = config.run.precision != "no", config.optim.batch_size
    view = (shown.frames, shown.pixels)
    if isinstance(encoder, RPA3D):
        activations = cnn_step_bytes(encoder.config, view, batch, half)
    elif isinstance(encoder, ViPTTNet):
        activations = frames_step_bytes(encoder.blocks[0], view, batch, half)
    elif isinstance(encoder, STFM):  # the rest sees one frame, or small maps
        activations = frames_step_bytes(encoder.stem, view, batch, half)
    else:
        shape = encoder.config if isinstance(encoder, TimeSformer) else encoder.config.blocks()
        activations = step_bytes(shape, [view], batch, 0, 0, half)
    return 4 * every + 12 * trained + activations


def _parts(splits: Splits) -> list[tuple[str, tuple[Segment, ...]]]:
    return [("train", splits.train), ("val", splits.val), ("test", splits.test)]


def _rows(name: str, rows: tuple[Segment, ...]) -> str:
    return f"{name:<16} {len(rows)} rows of {len({row.group for row in rows})} groups"


def _counts(config: FinetuneConfig, classes: tuple[str, ...], splits: Splits) -> list[str]:
    if config.task.kind not in CLASSIFICATION:
        return []
    several = config.task.kind == "multi_label"
    lines = []
    for name, rows in _parts(splits):
        truths = [truth_of(row, config.data.label, classes, several) for row in rows]
        counts = count_classes(truths, len(classes))
        told = ", ".join(f"{c} {n}" for c, n in zip(classes, counts, strict=True))
        lines.append(f"classes, {name:<7} {told}")
    return lines


def _trained(config: FinetuneConfig, task: Task) -> str:
    if not config.tuning.trains:
        return f"nothing ({config.tuning.method} on frozen features)"
    trained, every = trained_share(task.network)
    told = f"{trained / 1e6:.2f} M of {every / 1e6:.2f} M parameters ({config.tuning.method})"
    return told + (", on features computed once" if config.keeps_features else "")


def _taken(config: FinetuneConfig) -> str:
    data = config.data
    if data.every_frames:
        return f"around every {data.every_frames}th frame, {max(data.stride, 1)} apart"
    if config.task.kind not in CLASSIFICATION or data.stride:
        return f"{max(data.stride, 1)} apart"
    clips, crops = data.test_views
    return f"spread over a row; {clips} clips x {crops} crops at test"


def _drawn(config: FinetuneConfig) -> str:
    data = config.data
    part = "" if data.segments == "none" else f"in parts of 20 frames ({data.segments}); "
    if data.is_plain:
        return part + ("whole" if part else "as the test shows them")
    low, high = data.crop_area
    jitter = " ".join(f"{strength:g}" for strength in data.color_jitter)
    return (
        f"{part}crops of {low:g} to {high:g} of the area, turned by up to {data.rotate_degrees:g} "
        f"degrees, {'mirrored or not' if data.flip else 'not mirrored'}, colours {jitter}"
    )
