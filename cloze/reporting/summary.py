"""Report a finished run: log its table, summary and sample predictions, and draw its curves."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cloze.data.mixed_stream import describe_shares
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.models.loading import describe_model
from cloze.objectives.metrics import figures_of, format_metric
from cloze.reporting.history import adds_to_live_table, table_of
from cloze.reporting.model_card import write_model_card
from cloze.system.output import format_lines
from cloze.system.storage import CURVES
from cloze.training import checkpoints
from cloze.training.context import RunContext
from cloze.training.old_vocabulary import describe_vocabulary
from cloze.training.run import going_on_without
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


def finish(trainer: PretrainingTrainer, context: RunContext, splits: DatasetSplits, metrics: dict[str, float]) -> None:
    """Log the summary of a run; after training also draw its curves and write the model card; push if requested."""
    task, training_args = context.task, context.training_args
    samples = task.predict_samples(trainer, splits.samples) if splits.samples else {}
    samples = {title: examples for title, examples in samples.items() if examples}
    if trainer.is_world_process_zero() and splits.samples:
        history, best_step = trainer.state.log_history, trainer.state.best_global_step
        stats = {"model": describe_model(trainer.model, context.model_args)}
        stats |= describe_vocabulary(trainer, context) | splits.stats
        sets = trainer.held_out_names
        figures = figures_of(task.objectives, sets)
        lines = summarise_run(history, metrics, stats, training_args.output_dir, figures)
        shows_table = "train_loss" in metrics and adds_to_live_table(history, best_step)
        table = table_of(history, best_step, figures, several_sets=len(sets) > 1) if shows_table else []
        log_summary(lines, samples, table)
        if "train_loss" in metrics:
            card = Path(training_args.output_dir) / "README.md"
            draw_curves(history, best_step, figures_of(task.objectives), sets, card.parent / CURVES)
            with going_on_without(trainer, card.name):
                named = {name: f"eval_{name}" for name in figures}
                evaluated = {name: (figures[name][0], metrics[key]) for name, key in named.items() if key in metrics}
                write_model_card(card, context, trainer.model, lines, samples, evaluated)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=context.data_args.dataset_name)
    check_written(trainer)


def check_written(trainer: PretrainingTrainer) -> None:
    """Raise UserError if a file other than the model's could not be written."""
    if not trainer.unwritten:
        return
    output_dir, names = trainer.args.output_dir, ", ".join(trainer.unwritten)
    # Without a checkpoint, the same command would train from the start.
    cure = "see the log above for their content"
    if not trainer.args.do_train or checkpoints.list_checkpoints(output_dir):
        cure = "free disk space and run again without --overwrite_output_dir to write them"
    raise UserError(
        f"{names} cannot be written to {output_dir} ({next(iter(trainer.unwritten.values()))}), but the run is "
        f"complete: {cure}"
    )


def draw_curves(
    history: Sequence[dict],
    best_step: int | None,
    figures: dict[str, tuple[str, str]],
    sets: Sequence[str],
    path: Path,
) -> None:
    """Write the figure of the run; warn if it cannot be written, because the run itself is complete."""
    # Imported here because matplotlib takes long to load.
    from cloze.reporting.plots import curves_of, save

    try:
        save(curves_of(history, best_step, figures, sets), path)
    except OSError as error:
        path.unlink(missing_ok=True)
        logger.warning(
            "%s cannot be written (%s), but the run is complete: free disk space and run again without "
            "--overwrite_output_dir to draw it",
            path,
            error.strerror or error,
        )


def summarise_run(
    history: Sequence[dict], metrics: dict, stats: dict[str, str], output_dir: str, figures: dict[str, tuple[str, str]]
) -> dict[str, str]:
    """Return the summary of a run, text by title: statistics, throughput, losses and metrics."""
    lines = dict(stats)
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if "train_runtime" in metrics:
        tokens = f"{metrics['train_tokens']:,} tokens without padding"
        share = f"{metrics['train_non_padding_fraction']:.1%} of the batches"
        mfu = f", {metrics['train_mfu']:.0%} MFU" if "train_mfu" in metrics else ""
        speed = f"{metrics['train_tokens_per_second']:,.0f} tokens/s{mfu}"
        shares = {key.removeprefix("train_share_"): metrics[key] for key in metrics if key.startswith("train_share_")}
        if shares:
            lines["mixture"] = describe_shares(shares)
        lines["training"] = f"{metrics['train_runtime']:.0f} s, {tokens} ({share}), {speed}"
    if losses:
        (first_step, first), (last_step, last) = losses[0], losses[-1]
        lines["training loss"] = f"{first:.3f} at step {first_step}, {last:.3f} at step {last_step}"
    if "eval_loss" in metrics:
        before = next((entry for entry in history if "eval_loss" in entry and entry["step"] == 0), {})
        worse = []
        for name, (title, form) in figures.items():
            name = f"eval_{name}"
            if name not in metrics:
                continue
            lines[title] = format_metric(metrics[name], form)
            if name in before and "train_loss" in metrics:
                lines[title] = f"{format_metric(before[name], form)} before, {lines[title]} after"
            loss, title = name.replace("perplexity", "loss"), title.replace("perplexity", "loss")
            if name.endswith(("perplexity", "loss")) and f"{loss}_change" in metrics:
                lines[title] = describe_change(loss, metrics, before)
                if metrics[f"{loss}_change_interval"][0] > 0:
                    worse.append(title)
        if worse:
            lines["got worse"] = "; ".join(worse)
    if "train_loss" in metrics:
        lines["saved in"] = output_dir
    return lines


def describe_change(loss: str, metrics: dict, before: dict) -> str:
    """Describe a loss before and after training, and the interval of its change.

    Args:
        loss: name of the metric.
        metrics: of the run.
        before: metrics of the evaluation before training.
    """
    low, high = metrics[f"{loss}_change_interval"]
    interval = f"{metrics[f'{loss}_change']:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
    return f"{before[loss]:.3f} before, {metrics[loss]:.3f} after: {interval}"


def log_summary(lines: dict[str, str], samples: dict[str, list[str]], table: Sequence[str] = ()) -> None:
    """Log the table of a run, its summary, and its sample predictions."""
    if table:
        logger.info("\n%s", "\n".join(table))
    logger.info("\n%s", format_lines(lines))
    for title, examples in samples.items():
        logger.info("\n%s:\n%s", title, "\n".join(f"  {line}" for line in examples))
