"""Corpora -> examples to train and evaluate on, and what was understood of the text."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from cloze.arguments import DataTrainingArguments, TrainingArguments, UserError
from cloze.batching import EpochExamples, StreamedExamples
from cloze.blocks import Blocks, Lines, Template, cut_stream
from cloze.corpus import Corpus, split_documents
from cloze.preparation import TokenizedCorpus, prepare, unit_texts
from cloze.tokenization import check_whole_words, encode, template_of

logger = logging.getLogger(__name__)

# Above this, "words" are sentences of a script without spaces, which the tokenizer cannot tell apart.
MOST_TOKENS_A_WORD = 5

SHOWN = 50


@dataclass
class ExampleSets:
    """Either set is None if it is not asked for. ``facts`` say what they are made of; ``shown`` are a few to look at,
    of the validation set if there is one."""

    train: EpochExamples | StreamedExamples | None = None
    validation: Subset | None = None
    facts: dict[str, str] = field(default_factory=dict)
    shown: list[dict] = field(default_factory=list)


def make_examples(
    corpora: tuple[Corpus | None, Corpus | None],
    tokenizer: PreTrainedTokenizerBase,
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
    max_seq_length: int,
    cache: Path,
) -> ExampleSets:
    """Prepare the training and the validation corpus and cut them into examples.

    With no validation corpus, some documents of the training corpus are held out.
    """
    if data_args.whole_word_mask:
        check_whole_words(tokenizer)
    template = template_of(tokenizer)
    tokenize = partial(
        prepare,
        tokenizer=tokenizer,
        cache=cache,
        line_by_line=data_args.line_by_line,
        with_words=data_args.whole_word_mask,
        # One process does it again; the others wait for it at the lock, or take the same ids from before.
        overwrite=data_args.overwrite_cache and training_args.local_process_index == 0,
    )
    cut = partial(cut_up, data_args=data_args, template=template, max_seq_length=max_seq_length)
    train, validation = corpora
    sets = ExampleSets()
    prepared = training_documents = held_out = None
    if train is not None and not data_args.streaming:
        prepared = tokenize(train)
        if training_args.do_eval and validation is None:
            rng = np.random.default_rng(training_args.order_seed)
            training_documents, held_out = hold_out(prepared, data_args.validation_split_percentage, rng)
    if training_args.do_train and data_args.streaming:
        examples = partial(stream, train, tokenizer, data_args, template, max_seq_length)
        sets.train = StreamedExamples(examples, training_args.order_seed, data_args.max_train_samples)
        sets.facts["training text"] = f"{train.name}, streamed"
        # Read now, so that text that cannot be read is found before the model is loaded.
        sets.shown = list(islice(examples(), SHOWN))
        if not sets.shown:
            raise UserError(f"{train.name}: the tokenizer finds no token in the text: is it the right one?")
    elif training_args.do_train:
        examples = cut(prepared, training_documents)
        sets.train = EpochExamples(examples, data_args.max_train_samples)
        sets.facts["training text"] = describe(train, prepared, training_documents)
        sets.facts["training examples"] = describe_examples(sets.train.lengths, data_args, max_seq_length)
        sets.shown = [examples[number] for number in range(min(SHOWN, len(sets.train)))]
    if training_args.do_eval:
        source, documents = (prepared, held_out) if validation is None else (tokenize(validation), None)
        examples = cut(source, documents)
        sets.validation = Subset(examples, range(len(examples))[: data_args.max_eval_samples])
        lengths = examples.lengths[: data_args.max_eval_samples]
        sets.facts["held-out text"] = describe(validation or train, source, documents)
        sets.facts["held-out examples"] = describe_examples(lengths, data_args, max_seq_length)
        sets.shown = [examples[number] for number in range(min(SHOWN, len(lengths)))]
    for name, fact in sets.facts.items():
        logger.info("%s: %s", name.capitalize(), fact)
    logger.info("An example: %s", tokenizer.decode(sets.shown[0]["input_ids"])[:300])
    return sets


def hold_out(corpus: TokenizedCorpus, percentage: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the documents to train on and of those held out; warns where the latter are no such part of the text.

    A stray blank line in a file of lines makes two documents of it, one of which may be most of the text.
    """
    training, held_out = split_documents(corpus.num_documents, percentage, rng)
    share = 100 * corpus.count_tokens(held_out) / len(corpus.tokens)
    if share > 3 * percentage + 1:
        logger.warning(
            "HELD OUT: %.0f %% of the text, though %g %% of the documents: they are few or of unequal length; see that "
            "blank lines stand between documents only, or give --validation_file",
            share,
            percentage,
        )
    return training, held_out


def cut_up(corpus: TokenizedCorpus, documents, data_args, template: Template, max_seq_length: int) -> Blocks | Lines:
    spans = corpus.spans(documents)
    if corpus.word_starts is not None:
        check_words(corpus)
    if data_args.line_by_line:
        truncate = data_args.truncate_long_lines
        examples = Lines(corpus.tokens, spans, template, max_seq_length, corpus.word_starts, truncate)
    else:
        examples = Blocks(corpus.tokens, spans, template, max_seq_length, corpus.word_starts)
    if not len(examples):
        raise UserError("the tokenizer finds no token in the documents to use: give more text, or hold out more of it")
    return examples


def check_words(corpus: TokenizedCorpus) -> None:
    sample = corpus.word_starts[:1_000_000]
    tokens_a_word = len(sample) / max(1, int(sample.sum()))
    if tokens_a_word > MOST_TOKENS_A_WORD:
        logger.warning(
            "WHOLE WORDS: this tokenizer finds %.1f tokens a word, so that whole sentences would be masked: is the "
            "script one without spaces? Then drop --whole_word_mask",
            tokens_a_word,
        )


def stream(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    data_args: DataTrainingArguments,
    template: Template,
    max_seq_length: int,
) -> Iterator[dict]:
    """The examples of a corpus while it is read."""
    documents = encode(unit_texts(corpus, data_args.line_by_line), tokenizer, data_args.whole_word_mask)
    return cut_stream(documents, template, max_seq_length, data_args.line_by_line, data_args.truncate_long_lines)


def describe(corpus: Corpus, prepared: TokenizedCorpus, documents: np.ndarray | None) -> str:
    count = prepared.num_documents if documents is None else len(documents)
    part = "" if documents is None else f" of {prepared.num_documents:,}"
    whole = f"{corpus.name} ({prepared.num_sentences:,} sentences in all)"
    return f"{count:,}{part} documents, {prepared.count_tokens(documents):,} tokens, from {whole}"


def describe_examples(lengths: np.ndarray, data_args: DataTrainingArguments, max_seq_length: int) -> str:
    kind = "lines" if data_args.line_by_line else "blocks"
    return f"{len(lengths):,} {kind} of up to {max_seq_length} tokens, {lengths.mean():.0f} on average"
