"""Corpora -> examples to train and evaluate on, and what was understood of the text."""

import logging
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
    validation: Subset | StreamedExamples | None = None
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
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    if data_args.streaming:
        return stream_examples(corpora, tokenizer, data_args, template, max_seq_length, seed)

    train, validation = corpora
    tokenize = partial(
        prepare,
        tokenizer=tokenizer,
        cache=cache,
        line_by_line=data_args.line_by_line,
        with_words=data_args.whole_word_mask,
        # One process does it again; the others wait for it at the lock, or take what there was, which is the same.
        overwrite=data_args.overwrite_cache and training_args.local_process_index == 0,
    )
    cut = partial(cut_up, data_args=data_args, template=template, max_seq_length=max_seq_length)
    sets = ExampleSets()
    training_documents = held_out = None
    prepared = None if train is None else tokenize(train)
    if prepared is not None and training_args.do_eval and validation is None:
        rng = np.random.default_rng(seed)
        training_documents, held_out = split_documents(
            prepared.num_documents, data_args.validation_split_percentage, rng
        )
    if training_args.do_train:
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


def stream_examples(
    corpora: tuple[Corpus | None, Corpus | None], tokenizer, data_args, template, max_seq_length: int, seed: int
) -> ExampleSets:
    def stream(corpus: Corpus):
        documents = unit_texts(corpus, data_args.line_by_line)
        encoded = encode(documents, tokenizer, data_args.whole_word_mask)
        return cut_stream(encoded, template, max_seq_length, data_args.line_by_line, data_args.truncate_long_lines)

    sets = ExampleSets()
    for name, corpus in zip(("training", "held-out"), corpora, strict=True):
        if corpus is not None:
            # Read now, so that text that cannot be read is found before the model is loaded.
            sets.shown = list(islice(stream(corpus), SHOWN))
            if not sets.shown:
                raise UserError(f"{corpus.name}: the tokenizer finds no token in the text: is it the right one?")
            sets.facts[f"{name} text"] = f"{corpus.name}, streamed"
            logger.info(
                "%s text, for example: %s", name.capitalize(), tokenizer.decode(sets.shown[0]["input_ids"])[:300]
            )
    train, validation = corpora
    if train is not None:
        sets.train = StreamedExamples(partial(stream, train), seed, data_args.max_train_samples)
    if validation is not None:
        sets.validation = StreamedExamples(partial(stream, validation), None, data_args.max_eval_samples)
    return sets


def describe(corpus: Corpus, prepared: TokenizedCorpus, documents: np.ndarray | None) -> str:
    count = prepared.num_documents if documents is None else len(documents)
    spans = prepared.spans(documents)
    tokens = int((spans[:, 1] - spans[:, 0]).sum())
    part = "" if documents is None else f" of {prepared.num_documents:,}"
    whole = f"{corpus.name} ({prepared.num_sentences:,} sentences in all)"
    return f"{count:,}{part} documents, {tokens:,} tokens, from {whole}"


def describe_examples(lengths: np.ndarray, data_args: DataTrainingArguments, max_seq_length: int) -> str:
    kind = "lines" if data_args.line_by_line else "blocks"
    return f"{len(lengths):,} {kind} of up to {max_seq_length} tokens, {lengths.mean():.0f} on average"
