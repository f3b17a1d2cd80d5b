"""Corpora -> blocks or lines for masked language modelling."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from transformers import PreTrainedTokenizerBase

from cloze.arguments import UserError
from cloze.batching import StreamedExamples
from cloze.blocks import Blocks, Lines, Template, cut_stream
from cloze.corpus import Corpus
from cloze.data_arguments import DataTrainingArguments
from cloze.encoding import encode
from cloze.examples import SHOWN, ExampleSets, Part, collect, log_facts, prepare_parts
from cloze.preparation import unit_texts
from cloze.setup import Setup
from cloze.tokenization import template_of

logger = logging.getLogger(__name__)


def make_blocks(setup: Setup) -> ExampleSets:
    """Prepare the training and the validation corpus and cut them into blocks, or lines with ``line_by_line``.

    With no validation corpus, some documents of the training corpus are held out.
    """
    tokenizer, data_args, training_args = setup.tokenizer, setup.data_args, setup.training_args
    template = template_of(tokenizer)
    settings = {"template": template, "max_seq_length": setup.max_seq_length, "data_args": data_args}
    train, validation = setup.corpora
    streams = data_args.streaming and training_args.do_train
    sets = collect(
        prepare_parts(
            replace(setup, corpora=(None, validation)) if streams else setup,
            unit_of(data_args),
        ),
        partial(cut_up, **settings),
        partial(describe, data_args=data_args, max_seq_length=setup.max_seq_length),
        data_args,
    )
    if streams:
        examples = partial(stream, train, tokenizer, **settings)
        sets.train = StreamedExamples(examples, training_args.order_seed, data_args.max_train_samples)
        sets.facts = {"training text": f"{train.name}, streamed"} | sets.facts
        # Read now, so that text that cannot be read is found before the model is loaded.
        first = list(islice(examples(), SHOWN))
        if not first:
            raise UserError(f"{train.name}: the tokenizer finds no token in the text: is it the right one?")
        sets.shown = sets.shown or first
    log_facts(sets)
    logger.info("An example: %s", tokenizer.decode(sets.shown[0]["input_ids"])[:300])
    return sets


def unit_of(data_args: DataTrainingArguments) -> str:
    return "line" if data_args.line_by_line else "document"


def cut_up(part: Part, epoch: int | None, template: Template, max_seq_length: int, data_args) -> Blocks | Lines:
    """Its blocks or lines, which are the same in all epochs."""
    corpus, spans = part.corpus, part.corpus.spans(part.documents)
    if data_args.line_by_line:
        truncate = data_args.truncate_long_lines
        examples = Lines(corpus.tokens, spans, template, max_seq_length, corpus.word_starts, truncate)
    else:
        examples = Blocks(corpus.tokens, spans, template, max_seq_length, corpus.word_starts)
    if not len(examples):
        raise UserError("the tokenizer finds no token in the documents to use: give more text, or hold out more of it")
    return examples


def stream(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_seq_length: int,
    data_args: DataTrainingArguments,
) -> Iterator[dict]:
    """The examples of a corpus while it is read."""
    documents = encode(unit_texts(corpus, unit_of(data_args)), tokenizer, data_args.whole_word_mask)
    return cut_stream(documents, template, max_seq_length, data_args.line_by_line, data_args.truncate_long_lines)


def describe(part: Part, examples: Blocks | Lines, limit: int | None, data_args, max_seq_length: int) -> str:
    kind = "lines" if data_args.line_by_line else "blocks"
    lengths = examples.lengths[:limit]
    return f"{len(lengths):,} {kind} of up to {max_seq_length} tokens, {lengths.mean():.0f} on average"
