"""Corpora -> blocks or lines for masked language modelling."""

import logging
from collections.abc import Callable
from functools import partial

import numpy as np

from cloze.config.data_arguments import DataTrainingArguments
from cloze.data.blocks import Blocks, Lines
from cloze.data.splits import DatasetSplits, Split, make_sets
from cloze.errors import UserError
from cloze.tokenization.templates import Template, template_of
from cloze.training.context import RunContext

logger = logging.getLogger(__name__)


def make_blocks(context: RunContext) -> DatasetSplits:
    """Cut the training and the validation corpus into blocks, or lines with ``line_by_line``.

    With no validation corpus, some documents of the training corpus are held out.
    """
    data_args = context.data_args
    cut = partial(
        cut_up, template=template_of(context.tokenizer), max_seq_length=context.max_seq_length, data_args=data_args
    )
    sets = make_sets(
        context,
        "line" if data_args.line_by_line else "document",
        partial(examples_for_epoch, cut=cut),
        cut,
        partial(describe, data_args=data_args, max_seq_length=context.max_seq_length),
    )
    if sets.samples:
        logger.info("An example: %s", context.tokenizer.decode(sets.samples[0]["input_ids"])[:300])
    return sets


def examples_for_epoch(part: Split, epoch: int | None, cut: Callable) -> Blocks | Lines:
    """The same in all epochs."""
    examples = cut(part, None)
    if not len(examples):
        raise UserError("the tokenizer finds no token in the documents to use: give more text, or hold out more of it")
    return examples


def cut_up(
    part: Split,
    rng: np.random.Generator | None,
    template: Template,
    max_seq_length: int,
    data_args: DataTrainingArguments,
) -> Blocks | Lines:
    """Nothing in them is drawn: the generator is for pairs."""
    corpus, spans = part.corpus, part.corpus.spans(part.documents)
    if data_args.line_by_line:
        truncate = data_args.truncate_long_lines
        return Lines(corpus.tokens, spans, template, max_seq_length, corpus.word_starts, truncate)
    return Blocks(corpus.tokens, spans, template, max_seq_length, corpus.word_starts)


def describe(part: Split, examples: Blocks | Lines, limit: int | None, data_args, max_seq_length: int) -> str:
    kind = "lines" if data_args.line_by_line else "blocks"
    lengths = examples.lengths[:limit]
    return f"{len(lengths):,} {kind} of up to {max_seq_length} tokens, {lengths.mean():.0f} on average"
