"""The run: resume, train, evaluate, save."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from cloze.data.splits import DatasetSplits
from cloze.models.flops import count_flops
from cloze.system.processes import on_first_process
from cloze.system.signals import SIGNALS, handling_signals, ignore_signals
from cloze.system.storage import CURVES, RECIPE
from cloze.training import checkpoints
from cloze.training.context import RunContext, make_collator, make_model, padding_of
from cloze.training.dry_run import describe_cache, dry_run
from cloze.training.live_table import show_live_table
from cloze.training.output_dir import can_resume, check_disk
from cloze.training.trackers import guard_trackers
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


def start(context: RunContext, splits: DatasetSplits) -> PretrainingTrainer | None:
    """Return what trains the context's model, or None where the run ends before: --prepare_only and --dry_run."""
    if context.training_args.prepare_only:
        logger.info("Prepared, in %s: runs with this --cache_dir use it", describe_cache(context.cache))
        return None
    trainer = make_trainer(context, make_model(context), splits)
    if context.training_args.dry_run:
        dry_run(trainer, context, splits)
        return None
    return trainer


def make_trainer(context: RunContext, model: PreTrainedModel, splits: DatasetSplits) -> PretrainingTrainer:
    padding, do_train = padding_of(context, model), context.do_train
    context.task.prepare_model(model, context.max_seq_length)
    return PretrainingTrainer(
        model=model,
        args=context.training_args,
        objectives=context.task.objectives,
        padding=padding,
        recipe=context.recipe,
        checkpoint=context.checkpoint,
        texts=[corpus and corpus.content for corpus in context.corpora] if do_train else (None, None),
        flops=count_flops(model, context.task.takes_positions) if do_train else None,
        data_collator=make_collator(context, padding),
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        processing_class=context.tokenizer,
    )


def run(trainer: PretrainingTrainer, context: RunContext) -> dict[str, float]:
    """Train and evaluate as the trainer's arguments say, save the model and upstream's files, return all metrics."""
    args, metrics = trainer.args, {}
    show_live_table(trainer)
    if args.do_train:
        check_disk(args, trainer.save_total_limit, trainer.model.num_parameters())
    recipe = Path(args.output_dir) / RECIPE
    if trainer.is_world_process_zero() and (args.do_train or not recipe.exists()):
        with checkpoints.writing(recipe, len(context.recipe)):
            recipe.write_text(context.recipe, encoding="utf-8")
    with trackers_open(trainer):
        if args.do_train:
            with handling_signals(trainer.stop_callback.receive):
                metrics |= train(trainer, context.checkpoint)
                end_if_stopped(trainer)
            if trainer.stop_callback.to_the_end:
                ignore_signals(set(SIGNALS) - {signal.SIGINT})
        if args.do_eval:
            metrics |= evaluate(trainer)
    if args.do_train:
        with going_on_without(trainer, "trainer_state.json"):
            trainer.save_state()
    return metrics


@contextmanager
def going_on_without(trainer: PretrainingTrainer, *names: str) -> Iterator[None]:
    """Continue where files of output_dir cannot be written, as the model is saved; ``report.finish`` reports them."""
    try:
        yield
    except OSError as error:
        for name in names:
            path = Path(trainer.args.output_dir) / name
            if path.suffix == ".json":
                read_results(path)
            else:
                path.unlink(missing_ok=True)
        trainer.unwritten |= dict.fromkeys(names, error.strerror or str(error))


def save_metrics(trainer: PretrainingTrainer, split: str, metrics: dict[str, float]) -> None:
    """Write the metrics to the results of the split, and to all results."""
    with going_on_without(trainer, f"{split}_results.json", "all_results.json"):
        trainer.save_metrics(split, metrics)


@contextmanager
def trackers_open(trainer: PretrainingTrainer) -> Iterator[None]:
    """Let trackers end a run after its last evaluation: MLflow and Trackio would make a second run of that."""
    guard_trackers(trainer)
    handler = trainer.callback_handler
    end, handler.on_train_end = handler.on_train_end, lambda args, state, control: control
    yield
    handler.on_train_end = end
    if trainer.args.do_train:
        end(trainer.args, trainer.state, trainer.control)


def evaluate(trainer: PretrainingTrainer) -> dict[str, float]:
    """Return the metrics of the validation set, and save them as upstream does."""
    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(trainer.eval_dataset)
    for name in [name for name in metrics if name.endswith("_perplexity")]:
        metrics["perplexity"] = metrics[name]  # as upstream calls it
    save_metrics(trainer, "eval", metrics)
    return metrics


def train(trainer: PretrainingTrainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the last step, and save the model; no metrics if all of that was done before."""
    args = trainer.args
    if args.overwrite_output_dir and args.process_index == 0:
        checkpoints.remove_all(args.output_dir)
    # The metrics of the model as it was show what training brought; a resumed run has them in its state.
    args.eval_on_start = args.do_eval and not trainer.progress.step
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.stopped_early and trainer.state.global_step < trainer.state.max_steps:
        logger.info(
            "Stopped early at step %d: no improvement in %d evaluations over %.4f (--metric_for_best_model %s)",
            trainer.state.global_step,
            args.early_stopping_patience,
            trainer.state.best_metric,
            args.metric_for_best_model,
        )
    # A GPU is not asked about the last step before.
    trainer.stop_callback.check_losses(args.output_dir)
    trainer.save_model()
    whole = {name: result.metrics[name] for name in ("epoch", "train_loss")}
    if hasattr(trainer.train_dataset, "__len__"):
        whole["train_samples"] = len(trainer.train_dataset)
    if trainer.state.global_step == trainer.progress.step:
        logger.info("Nothing is left to train: %s is at the last step", checkpoint)
        return unreported_metrics(trainer, whole)
    counts = trainer.meter.totals(trainer.accelerator)
    rates = trainer.meter.rates(counts, time.monotonic() - trainer.started, args.world_size)
    metrics = result.metrics | whole | {"train_tokens": int(counts[2])}
    metrics |= {f"train_{name}": value for name, value in rates.items()}
    save_metrics(trainer, "train", metrics)
    return metrics


def end_if_stopped(trainer: PretrainingTrainer) -> None:
    """End the run if a signal came after the last step; where running again would lose that, go on to the end."""
    stop_callback = trainer.stop_callback
    stop_callback.to_the_end = not on_first_process(partial(can_resume, trainer.args))
    stop_callback.end_if_stopped(
        "Stopped by a signal after the last step, the model is saved: run it again for what is left"
    )
    if stop_callback.received:
        logger.info("Received a signal: continuing to the end, as no checkpoint is there to resume from")


def unreported_metrics(trainer: PretrainingTrainer, whole: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a run after its last step, if it ended before it reported all of them; else none."""
    if not trainer.is_world_process_zero():
        return {}
    folder = Path(trainer.args.output_dir)
    read_results(folder / "all_results.json")
    earlier = read_results(folder / "train_results.json")
    # How fast it was is not known any more if that was not written.
    metrics = earlier if earlier.get("train_loss") == whole["train_loss"] else whole
    # The model card is written last; the curves may have found no room, and so may all results.
    if metrics is earlier and all((folder / name).exists() for name in ("README.md", CURVES, "all_results.json")):
        return {}
    save_metrics(trainer, "train", metrics)
    return metrics


def read_results(path: Path) -> dict[str, float]:
    """Read metrics, none if there is no file; half of one, as a kill leaves, is deleted."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        path.unlink()
        return {}
