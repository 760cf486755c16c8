"""Pretraining, from the first step to the exported model: the loop."""

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from endofm.config import as_tree
from endofm.data.pretraining.dataset import ClipViews, Corpus, load_corpus
from endofm.data.pretraining.loader import make_loader
from endofm.tasks.pretraining.endofm import PretrainingStep, build_task
from endofm.tasks.pretraining.knn import OnlineKnn
from endofm.training.checkpoint import Checkpoints
from endofm.training.log import RunLog
from endofm.training.monitor import Monitor
from endofm.training.optim import adamw
from endofm.training.setup import Run, start_run
from endofm.training.sharding import prepare, refuse_sharding

from .config import PretrainConfig
from .finish import export
from .plan import check_files, check_memory, make_plan


def train(config: PretrainConfig) -> Path:
    """Run, or go on with, a recipe; the folder of the exported model."""
    corpus = load_corpus(config.data)
    check_files(config, corpus)
    with start_run(config.run, as_tree(config)) as run:
        return train_on(config, corpus, run)


def train_on(config: PretrainConfig, corpus: Corpus, run: Run) -> Path:
    """The run itself, in a folder that is ours."""
    check_memory(config, run.device)
    plan = make_plan(config, corpus, run.rank, run.world)

    checkpoints = Checkpoints(
        run.folder / "checkpoints", run.accelerator, plan.global_batch, corpus.fingerprint
    )
    # a checkpoint holds all weights: those that the run started from need not be there any more
    model = replace(config.model, init_from="") if checkpoints.whole() else config.model
    core, origin = build_task(model, config.views, config.objective)
    if config.run.compile:
        refuse_sharding("run.compile", "a backbone is compiled whole, its weights come by blocks")
        core.compile_backbones()
    task, optimizer = prepare(run.accelerator, core, adamw(core))
    first = checkpoints.restore()

    clips = ClipViews(corpus, config.data, config.views, config.run.seed)
    workers, patience = config.data.workers, config.run.patience_seconds
    batches = make_loader(
        clips, plan.batches, first, plan.steps, workers, run.is_on_gpu, patience_seconds=patience
    )
    take_step = PretrainingStep(run.accelerator, task, core, optimizer, config.views, config.optim)
    monitor = Monitor(config.objective.prototypes)
    knn = OnlineKnn(run, config.model, config.views, config.data.root, workers)
    log = RunLog(run, as_tree(config), plan.steps, first, corpus.segments, config.data)
    clips.left_out |= log.broken.reasons
    log.say(origin if first == 0 else f"Goes on from the checkpoint of step {first}.")
    if corpus.num_quarantined:
        log.say(
            f"In quarantine: {corpus.num_quarantined} clips, by the lists beside the manifests."
        )

    for step in range(first, plan.steps):
        run.seed_step(step)
        now = plan.schedules.at(step)
        start = time.perf_counter()
        micro = list(islice(batches, config.optim.accumulate))
        waited = time.perf_counter() - start
        outputs, scalars = take_step(micro, now)
        monitor.update(outputs)
        log.update(step, scalars, micro, waited)
        knn.after(step, core, log)
        stopped = run.stop_signal()
        save = stopped or run.saves_after(step) or step + 1 == plan.steps
        if save or run.logs_after(step):
            log.flush(now, plan.global_batch, monitor)
        if save:
            with log.aside():
                checkpoints.save(step + 1)
        if stopped:
            log.close(f"Stopped after step {step + 1}; the same command goes on from there.")
            raise SystemExit(128 + stopped)
    log.close()
    return export(config, core, plan, max(first, plan.steps), run)
