"""Evaluate a checkpoint with its own vocabulary before the first step, to compare it with the changed one."""

import copy
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from transformers import TrainerCallback

from cloze.data.splits import DatasetSplits
from cloze.models.resizing import describe_rows
from cloze.tokenization.templates import ensure_template
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
    """

    def __init__(self, old: dict[str, float]):
        self.old = old

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Add the figures of a held-out set to its entry in the history, which checkpoints keep, and log them."""
        names = [name for name in metrics or {} if name.endswith(METRIC) and name in self.old]
        if not state.global_step and names:
            state.log_history[-1] |= {f"{name}{OLD}": self.old[name] for name in names}
            logger.info("%s", "; ".join(_compare(name, metrics[name], self.old[name]) for name in names).capitalize())


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
    reasons = {
        "--max_eval_samples takes other text with it": context.data_args.max_eval_samples,
        "FSDP and DeepSpeed evaluate only the model that they train": (
            trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        ),
    }
    reason = next((reason for reason, is_given in reasons.items() if is_given), None)
    if reason is not None:
        logger.info("Not evaluating the old vocabulary: %s", reason)
        return
    logger.info("Evaluating the checkpoint with its own vocabulary")
    with _logging_errors_only():
        old = _old_context(context)
        splits: DatasetSplits = old.task.make_splits(old)
        other = make_trainer(old, make_model(old), splits)
        show_live_table(other)
        trainer.add_callback(OldVocabularyCallback(other.evaluate()))
    # Free its memory before training.
    del other
    gc.collect()


def _old_context(context: RunContext) -> RunContext:
    """Return the context of an evaluation of the checkpoint with its own tokenizer."""
    args = copy.copy(context.training_args)
    args.do_train, args.do_predict, args.report_to = False, False, []
    config = copy.deepcopy(context.config)
    assert context.own is not None, "the caller has checked it"
    ensure_template(context.own, config.model_type)
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


def describe_vocabulary(context: RunContext, history: Sequence[dict]) -> dict[str, str]:
    """Return how the vocabulary has changed, and the bits per character before training, as a line of the summary."""
    if context.own is None or context.rows is None:
        return {}
    text = describe_rows(context.rows)
    pairs = [(entry, name.removesuffix(OLD)) for entry in history for name in entry if name.endswith(OLD)]
    return {
        "vocabulary": "; ".join([text, *(_compare(name, entry[name], entry[f"{name}{OLD}"]) for entry, name in pairs)])
    }


def _compare(name: str, new: float, old: float) -> str:
    """Return the figures of a metric before training with the two vocabularies, with the name of its held-out set."""
    held_out = name.removeprefix("eval_").removesuffix(METRIC).removesuffix("mlm_").strip("_")
    where = f" of {held_out}" if held_out else ""
    return f"bits per character{where} before training: {old:.3f} with the old vocabulary, {new:.3f} with the new"
