"""Run the training: resume, train, evaluate, save."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from cloze.data.mixed_stream import MixedStream, shares_taken
from cloze.data.samplers import EpochDataset, HeldOutSets
from cloze.data.splits import DatasetSplits
from cloze.models.flops import count_flops
from cloze.system.processes import on_first_process
from cloze.system.signals import SIGNALS, handling_signals, ignore_signals
from cloze.system.storage import CURVES, RECIPE
from cloze.training import checkpoints
from cloze.training.baseline import changes_since, remove_baseline
from cloze.training.context import RunContext, fingerprints_of, make_collator, make_model, padding_of
from cloze.training.dry_run import describe_cache, dry_run
from cloze.training.live_table import show_live_table
from cloze.training.old_vocabulary import evaluate_old_vocabulary
from cloze.training.output_dir import can_resume, check_disk
from cloze.training.saving import replaced
from cloze.training.trackers import guard_trackers
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


def start(context: RunContext, splits: DatasetSplits) -> PretrainingTrainer | None:
    """Return the trainer, or None if the run ends here: with --prepare_only and --dry_run."""
    if context.training_args.prepare_only:
        logger.info("Prepared the data in %s: runs with this --cache_dir reuse it", describe_cache(context.cache))
        return None
    trainer = make_trainer(context, make_model(context), splits)
    if context.training_args.dry_run:
        dry_run(trainer, context, splits)
        return None
    return trainer


def make_trainer(context: RunContext, model: PreTrainedModel, splits: DatasetSplits) -> PretrainingTrainer:
    """Return a trainer of the model, prepared for the task."""
    padding, do_train = padding_of(context, model), context.do_train
    context.task.prepare_model(model, context.max_seq_length)
    return PretrainingTrainer(
        model=model,
        args=context.training_args,
        objectives=context.task.objectives,
        padding=padding,
        recipe=context.recipe,
        checkpoint=context.checkpoint,
        fingerprints=fingerprints_of(context.corpora) if do_train else None,
        flops=count_flops(model, context.task.takes_positions) if do_train else None,
        data_collator=make_collator(context, padding),
        train_dataset=splits.train,
        eval_dataset=HeldOutSets(splits.validation) if splits.validation else None,
        processing_class=context.tokenizer,
    )


def run(trainer: PretrainingTrainer, context: RunContext) -> dict[str, float]:
    """Train and evaluate as the arguments say, save the model and the metrics, and return all metrics."""
    args = trainer.args
    metrics: dict[str, float] = {}
    show_live_table(trainer)
    if args.do_train:
        check_disk(args, trainer.save_total_limit, trainer.model.num_parameters())
    recipe = Path(args.output_dir) / RECIPE
    if trainer.is_world_process_zero() and (args.do_train or not recipe.exists()):
        with checkpoints.writing(recipe, len(context.recipe)):
            recipe.write_text(context.recipe, encoding="utf-8")
    with trackers_open(trainer):
        if args.do_train:
            evaluate_old_vocabulary(trainer, context, make_trainer)
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
    """Continue if these files of output_dir cannot be written: the model is saved, and the summary reports them."""
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
    """Write the metrics to ``{split}_results.json`` and ``all_results.json``."""
    with going_on_without(trainer, f"{split}_results.json", "all_results.json"):
        trainer.save_metrics(split, metrics)


@contextmanager
def trackers_open(trainer: PretrainingTrainer) -> Iterator[None]:
    """Close trackers after the last evaluation: MLflow and Trackio would log it to a second run."""
    guard_trackers(trainer)
    handler = trainer.callback_handler
    with replaced(handler, on_train_end=lambda args, state, control: control):
        yield
    if trainer.args.do_train:
        handler.on_train_end(trainer.args, trainer.state, trainer.control)


def evaluate(trainer: PretrainingTrainer) -> dict[str, float]:
    """Evaluate on the held-out sets, and save and return their metrics."""
    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(trainer.eval_dataset)
    perplexities = [value for name, value in metrics.items() if name.endswith("_perplexity")]
    if perplexities:
        metrics["perplexity"] = perplexities[0]  # upstream's name
    if trainer.args.do_train and trainer.is_world_process_zero():
        changes = changes_since(trainer.args.output_dir, trainer.scores, trainer.state.log_history)
        for name, change in changes.items():
            metrics |= {f"{name}_change": change.value, f"{name}_change_interval": [change.low, change.high]}
    save_metrics(trainer, "eval", metrics)
    return metrics


def train(trainer: PretrainingTrainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the last step, save the model, and return the metrics; none if an earlier run reported them."""
    args = trainer.args
    if args.overwrite_output_dir and args.process_index == 0:
        checkpoints.remove_all(args.output_dir)
    if not trainer.progress.step and args.process_index == 0:
        remove_baseline(args.output_dir)
    # The baseline to compare with; a resumed run has it in its state.
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
    # On a GPU, the callback has not checked the last step.
    trainer.stop_callback.check_losses(args.output_dir)
    trainer.save_model()
    whole = {name: result.metrics[name] for name in ("epoch", "train_loss")}
    if isinstance(trainer.train_dataset, EpochDataset):
        whole["train_samples"] = len(trainer.train_dataset)
    if isinstance(trainer.train_dataset, MixedStream):
        shares = shares_taken(trainer.stream.state_dict()["workers"])
        whole |= {f"train_share_{name}": share for name, share in shares.items()}
    if trainer.state.global_step == trainer.progress.step:
        logger.info("Training is already complete: %s is the last step", checkpoint)
        return unreported_metrics(trainer, whole)
    counts = trainer.meter.totals(trainer.accelerator)
    rates = trainer.meter.rates(counts, time.monotonic() - trainer.started, args.world_size)
    metrics = result.metrics | whole | {"train_tokens": int(counts[2])}
    metrics |= {f"train_{name}": value for name, value in rates.items()}
    save_metrics(trainer, "train", metrics)
    return metrics


def end_if_stopped(trainer: PretrainingTrainer) -> None:
    """End the run if a signal came after the last step; continue to the end if the run could not be resumed."""
    stop_callback = trainer.stop_callback
    stop_callback.to_the_end = not on_first_process(partial(can_resume, trainer.args))
    stop_callback.end_if_stopped(
        "Stopped by a signal after the last step: the model is saved; run the same command again to finish"
    )
    if stop_callback.received:
        logger.info("Received a signal: continuing to the end, because there is no checkpoint to resume from")


def unreported_metrics(trainer: PretrainingTrainer, whole: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a completed training that an earlier run did not report; none if it reported all."""
    if not trainer.is_world_process_zero():
        return {}
    folder = Path(trainer.args.output_dir)
    read_results(folder / "all_results.json")
    earlier = read_results(folder / "train_results.json")
    # The throughput is lost if it was not written.
    metrics = earlier if earlier.get("train_loss") == whole["train_loss"] else whole
    # The model card is written last; a full disk may have kept the other files from being written.
    if metrics is earlier and all((folder / name).exists() for name in ("README.md", CURVES, "all_results.json")):
        return {}
    save_metrics(trainer, "train", metrics)
    return metrics


def read_results(path: Path) -> dict[str, float]:
    """Read metrics; none if the file is absent. A truncated file, left by a killed process, is deleted."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        path.unlink()
        return {}
