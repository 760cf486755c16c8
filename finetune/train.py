"""Fine-tuning, from the first step to the result: the loop, the same for every task."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

from accelerate.state import PartialState

from endofm.config import as_tree
from endofm.data.labelled.clips import Piece, pieces_of
from endofm.data.labelled.samples import join
from endofm.data.manifests.splits import Splits
from endofm.data.pretraining.loader import make_loader
from endofm.tasks.classification.task import Classification
from endofm.tasks.finetuning.contract import NO_INTERVALS, Task
from endofm.tasks.finetuning.evaluating import Evaluator, Reader
from endofm.tasks.finetuning.frozen import FeatureCache, StoredFeatures, probe
from endofm.tasks.finetuning.selecting import make_sampling
from endofm.tasks.finetuning.starting import find_start, start_task
from endofm.tasks.finetuning.step import TuneStep
from endofm.tasks.finetuning.trainable import parameter_groups, train_mode
from endofm.training.checkpoint import Checkpoints
from endofm.training.finetuning import Selection, Unwatched, make_optimizer
from endofm.training.log import RunLog
from endofm.training.setup import Run, hold_folder, start_run
from endofm.training.sharding import prepare, refuse_sharding

from .config import FinetuneConfig
from .plan import Material, Plan, gather_material, make_clip_spec, make_plan, remarks
from .results import INTERVALS, Choice, RunResult, has_result, say, summarize, write_result


def finetune(config: FinetuneConfig) -> Path:
    """Every share and seed of a recipe, one after the other; the folder of the result."""
    refuse_sharding("Fine-tuning", "validation gives processes unequal numbers of batches")
    material = gather_material(config)
    for remark in remarks(material):
        say(remark)
    with hold_result(config.run.out):
        for share in config.data.label_share:
            for seed in config.run.seeds:
                one = config.only(share, seed)
                if not has_result(one, material.splits.fingerprint):
                    with start_run(one.setup, as_tree(one)) as run:
                        finetune_once(one, material, run)
                        stop_if_asked(run)
        if PartialState().is_main_process:
            summarize(config)
    return config.run.out


def hold_result(folder: Path) -> AbstractContextManager[object]:
    """Refuse a second program, of whatever seeds, in a result's folder; for the first process."""
    is_first = os.environ.get("RANK", "0") == "0"
    return hold_folder(folder) if is_first else nullcontext()


def stop_if_asked(run: Run) -> None:
    """End the program if any process has got a signal while judging; a collective call."""
    if stopped := run.stop_signal():
        say("Stopped while judging; the same command goes on from there.")
        raise SystemExit(128 + stopped)


def finetune_once(config: FinetuneConfig, material: Material, run: Run) -> None:
    """One run: from its weights, or its last checkpoint, to the test."""
    plan = make_plan(config, material, run.rank, run.world)
    data, splits = config.data, plan.splits
    start = find_start(config.weights, config.model, data.frames, data.pixels)
    say(f"Starts from {start.told}.")
    clip_spec = make_clip_spec(config, material, start)
    task, adapters = start_task(
        start, clip_spec, config.task, config.model, config.tuning, plan.truths, config.reset_head
    )
    task.network.to(run.device)
    patience = run.config.patience_seconds
    reader = Reader(
        run.accelerator,
        config.optim.batch_size,
        data.workers,
        patience,
        before_batch=partial(stop_if_asked, run),
    )
    features = keep_features(config, reader, task, splits)
    judge = Evaluator(reader, data.max_broken_share, features)
    val, test = (pieces_of(rows, clip_spec) for rows in (splits.val, splits.test))
    if config.tuning.trains:
        choice = train(config, plan, run, task, judge, features, val)
        of_val, of_test = judge(task, val), judge(task, test)
    else:
        assert isinstance(task, Classification) and features is not None
        method, seed = config.tuning.method, run.config.seed
        of_val, of_test = (
            probe(method, task, features, splits.train, rows, seed)
            for rows in (splits.val, splits.test)
        )
        choice = Choice("nothing: there is one model", None, 0)
    result = RunResult(
        task,
        adapters,
        choice,
        validation=task.score(of_val.predictions, NO_INTERVALS),
        test=task.score(of_test.predictions, INTERVALS),
        evaluation=of_test,
        rows={"train": splits.train, "val": splits.val, "test": splits.test},
        corpus=material.splits.fingerprint,
        weights=start.provenance,
    )
    write_result(config, run, result)


def keep_features(
    config: FinetuneConfig, reader: Reader, task: Task, splits: Splits
) -> StoredFeatures | None:
    """The frozen backbone's features of every row, where the recipe lets them be kept."""
    if not config.keeps_features:
        return None
    assert isinstance(task, Classification)
    return FeatureCache(config.run.out.parent / "features", reader).features(task, splits.all)


def train(
    config: FinetuneConfig,
    plan: Plan,
    run: Run,
    task: Task,
    judge: Evaluator,
    features: StoredFeatures | None,
    val: list[Piece],
) -> Choice:
    """The loop; leaves the task with the weights that were best on validation."""
    optim, network = config.optim, task.network
    groups = parameter_groups(network, task.encoder, config.tuning.layer_decay)
    made = make_optimizer(optim.kind, groups, optim.weight_decay)
    prepared, optimizer = prepare(run.accelerator, network, made)
    selection = Selection(
        run.folder / "best.safetensors", optim.patience, run.accelerator.is_main_process
    )
    workers = 0 if features is not None else config.data.workers
    sampling = make_sampling(plan.corpus, plan.batches, task, run.config.seed, workers, features)
    run.accelerator.register_for_checkpointing(selection, *sampling.kept)
    folder, corpus = run.folder / "checkpoints", plan.splits.fingerprint
    checkpoints = Checkpoints(folder, run.accelerator, plan.global_batch, corpus)
    first = checkpoints.restore()

    clips, patience = sampling.clips, run.config.patience_seconds
    batches = make_loader(
        clips, sampling.plan, first, plan.steps, workers, run.is_on_gpu, join, patience
    )
    take_step = TuneStep(
        run.accelerator, prepared, task, optimizer, optim.clip_norm, sampling.learn
    )
    log = RunLog(run, as_tree(config), plan.steps, first, plan.splits.train, config.data)
    clips.left_out |= log.broken.reasons
    log.say(f"Seed {run.config.seed} starts at step {first} of {plan.steps}.")

    train_mode(network, task.encoder)
    if first > selection.judged_step and plan.validates_after(first - 1):  # due, but not done
        log.take_back(first, "val/")
        validate(first, task, judge, val, selection, log)
    for step in range(first, plan.steps):
        if selection.is_over:
            break
        run.seed_step(step)
        now = plan.schedule.at(step)
        since = time.perf_counter()
        micro = list(islice(batches, optim.accumulate))
        waited = time.perf_counter() - since
        log.update(step, take_step(micro, now), micro, waited)
        stopped, validates = run.stop_signal(), plan.validates_after(step)
        if stopped or validates or run.logs_after(step):
            log.flush(now, plan.global_batch, Unwatched())
        if stopped or validates:
            with log.aside():  # before a validation, which may take long
                checkpoints.save(step + 1)
        if stopped:
            log.close(f"Stopped after step {step + 1}; the same command goes on from there.")
            raise SystemExit(128 + stopped)
        if validates:
            validate(step + 1, task, judge, val, selection, log)
    log.close(f"Best on validation: {task.selects_by} {selection.best:.4f}.")
    run.accelerator.wait_for_everyone()
    selection.load_best(network)
    return Choice(task.selects_by, selection.best, selection.best_step)


def validate(
    step: int, task: Task, judge: Evaluator, val: list[Piece], selection: Selection, log: RunLog
) -> None:
    """Score the validation rows, note it, and keep the weights if they are the best so far."""
    with log.aside():
        found = judge(task, val)
        for broken in found.broken:
            log.warn(f"Validation does without {broken.name}: {broken.reason}")
        figures = task.score(found.predictions, NO_INTERVALS)
        is_best = selection.update(step, figures.choice(task.selects_by), task.network)
    row = {f"val/{n}": v.value for n, v in figures.values.items() if v.value is not None}
    told = f"step {step}  validation {task.selects_by} {figures.choice(task.selects_by):.4f}"
    log.note(step, row, told + (", the best so far" if is_best else ""))
    train_mode(task.network, task.encoder)
