"""Evaluate a checkpoint with its own vocabulary before the first step, to compare it with the changed one."""

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.models.resizing import describe_rows
from cloze.objectives.metrics import figures_of
from cloze.tokenization.checks import MUCH_UNKNOWN
from cloze.training.context import RunContext, make_model
from cloze.training.live_table import show_live_table
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# The only measure that can be compared across vocabularies, and its name in the history with the old one.
METRIC, OLD = "bits_per_character", "_old_vocabulary"


class OldVocabularyCallback(TrainerCallback):
    """Add the bits per character with the old vocabulary to the evaluation before training.

    Args:
        old: metrics of the checkpoint with its own vocabulary.
        titles: titles of those to compare.
    """

    def __init__(self, old: dict[str, float], titles: dict[str, str]):
        self.old, self.titles = old, titles

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Add the old figures to the entry in the history, which checkpoints keep, and log them."""
        if state.global_step:
            return
        state.log_history[-1] |= {f"{name}{OLD}": self.old[name] for name in self.titles if name in self.old}
        for line in _comparisons(state.log_history[-1], self.titles):
            logger.info("%s", line[0].upper() + line[1:])


def evaluate_old_vocabulary(
    trainer: PretrainingTrainer, context: RunContext, make_trainer: Callable[..., PretrainingTrainer]
) -> None:
    """Evaluate the checkpoint with its own vocabulary on the held-out text of a new run, if the vocabulary changes.

    The trainer adds the figures to its evaluation before training.

    Args:
        trainer: trains with the new vocabulary.
        context: of the run.
        make_trainer: makes a trainer from a context, a model and splits.
    """
    args = trainer.args
    if context.own is None or context.checkpoint is not None or not args.do_eval:
        return
    try:
        _check_comparable(trainer, context)
        logger.info("Evaluating the checkpoint with its own vocabulary")
        with _logging_errors_only():
            metrics = _evaluate(_old_context(context), make_trainer)
    except UserError as error:
        logger.warning("not evaluating the old vocabulary: %s", error)
    else:
        trainer.add_callback(OldVocabularyCallback(metrics, _titles(trainer)))
    # Free the memory of the other model before training.
    gc.collect()


def _check_comparable(trainer: PretrainingTrainer, context: RunContext) -> None:
    """Raise UserError for settings with which the old vocabulary cannot be evaluated."""
    if context.data_args.max_eval_samples:
        raise UserError("--max_eval_samples takes other text with it")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError("FSDP and DeepSpeed evaluate only the model that they train")


def _evaluate(context: RunContext, make_trainer: Callable[..., PretrainingTrainer]) -> dict[str, float]:
    """Return the metrics of an untrained model; raise UserError if its tokenizer does not know the held-out text."""
    splits: DatasetSplits = context.task.make_splits(context)
    # HeldOutExamples, which DatasetSplits does not declare.
    examples: list[Any] = [subset.dataset for subset in splits.validation.values()]
    share = max(each.corpus.unknown_share for each in examples)
    if share > MUCH_UNKNOWN:
        raise UserError(f"{share:.1%} of the held-out tokens are unknown to its tokenizer")
    trainer = make_trainer(context, make_model(context), splits)
    show_live_table(trainer)
    return trainer.evaluate()


def _old_context(context: RunContext) -> RunContext:
    """Return the context of an evaluation of the checkpoint with its own tokenizer."""
    args = copy.copy(context.training_args)
    args.do_train, args.do_predict, args.report_to = False, False, []
    config = copy.deepcopy(context.config)
    assert context.own is not None, "the caller has checked it"
    context.task.prepare_tokenizer(context.own, config)
    # Only without validation text are documents of the training text held out.
    corpora = context.corpora._replace(train={}) if context.corpora.validation else context.corpora
    return replace(
        context,
        do_train=False,
        overwrite_cache=False,
        corpora=corpora,
        config=config,
        tokenizer=context.own,
        own=None,
        rows=None,
        training_args=args,
    )


@contextmanager
def _logging_errors_only() -> Iterator[None]:
    """Keep the package from logging what the run logs again with the new vocabulary."""
    log = logging.getLogger("cloze")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def describe_vocabulary(trainer: PretrainingTrainer, context: RunContext) -> dict[str, str]:
    """Return how the vocabulary has changed, and the bits per character before that, as lines of the summary."""
    if context.own is None or context.rows is None:
        return {}
    before = next((entry for entry in trainer.state.log_history if any(name.endswith(OLD) for name in entry)), {})
    lines = {"vocabulary": describe_rows(context.rows)}
    old = [
        f"{title} {before[f'{name}{OLD}']:.3f}" for name, title in _titles(trainer).items() if f"{name}{OLD}" in before
    ]
    return lines | ({"old vocabulary": "before training: " + "; ".join(old)} if old else {})


def _titles(trainer: PretrainingTrainer) -> dict[str, str]:
    """Return the titles of the metrics that can be compared across vocabularies, by their names in logs."""
    figures = figures_of(trainer.objectives, trainer.held_out_names)
    return {f"eval_{name}": title for name, (title, _) in figures.items() if METRIC in name}


def _comparisons(entry: dict[str, float], titles: dict[str, str]) -> list[str]:
    """Return the figures before training with both vocabularies, a text for each held-out set."""
    return [
        f"{title} before training: {entry[f'{name}{OLD}']:.3f} with the old vocabulary, {entry[name]:.3f} with the new"
        for name, title in titles.items()
        if f"{name}{OLD}" in entry
    ]
