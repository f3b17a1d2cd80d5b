"""Corpora -> the parts to train and evaluate on -> sets of examples, and what was understood of the text."""

import copy
import logging
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import DataArguments
from cloze.data.collators import special_ids
from cloze.data.samplers import EpochDataset
from cloze.data.streaming import Document, StreamedExamples, cut_chunks
from cloze.errors import UserError
from cloze.text.corpus import read_documents, split_documents
from cloze.tokenization.checks import MOST_UNKNOWN, check_known, check_whole_words
from cloze.tokenization.encoding import CHUNK_CHARS, own_encoder
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.segmentation import check_language
from cloze.tokenization.token_cache import TokenizedCorpus, prepare, tokenize
from cloze.training.context import RunContext

logger = logging.getLogger(__name__)

# Above this, "words" are sentences of a script without spaces, which the tokenizer cannot tell apart.
MOST_TOKENS_A_WORD = 5
# How Unicode's names of their characters begin.
WITHOUT_SPACES = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

SHOWN = 50


@dataclass
class Split:
    """The documents of a corpus to train on, or to evaluate on; all of them if ``documents`` is None."""

    name: str
    corpus: TokenizedCorpus
    documents: np.ndarray | None

    def __str__(self) -> str:
        count = self.corpus.num_documents if self.documents is None else len(self.documents)
        part = "" if self.documents is None else f" of {self.corpus.num_documents:,}"
        tokens = f"{self.corpus.count_tokens(self.documents):,} tokens"
        sentences = f"{'about ' if self.corpus.is_estimate else ''}{self.corpus.num_sentences:,} sentences in all"
        unknown = f"{self.corpus.unknown_share:.1%} unknown tokens"
        return f"{count:,}{part} documents, {tokens}, from {self.name} ({sentences}, {unknown})"


@dataclass
class DatasetSplits:
    """Either set is None if it is not asked for. ``stats`` say what they are made of; ``samples`` are a few to look at,
    of the validation set if there is one."""

    train: EpochDataset | StreamedExamples | None = None
    validation: Subset | None = None
    stats: dict[str, str] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)


def make_sets(
    context: RunContext,
    unit: str,
    draw: Callable[[Split, int | None], Sequence],
    draw_chunk: Callable[[Split, np.random.Generator], Sequence],
    describe: Callable[[Split, Sequence, int | None], str],
    at_least: int = 1,
) -> DatasetSplits:
    """The examples of the training and of the validation corpus; with ``streaming``, only the latter is prepared.

    Args:
        unit: what ``prepare`` makes documents of.
        draw: gives the examples of a part in an epoch, None for evaluation; UserError if there are none.
        draw_chunk: gives those of a part of a stream, if any.
        describe: what to say of a part's examples, of which the first so many are used.
        at_least: documents that examples need.
    """
    check_language(context.data_args.language)
    streams = context.data_args.streaming and context.training_args.do_train
    prepared = replace(context, corpora=(None, context.corpora[1])) if streams else context
    if context.task.masks:
        describe = partial(describe_maskable, describe=describe, special=special_ids(context.tokenizer))
    sets = collect(prepare_parts(prepared, unit, at_least), draw, describe, context.data_args)
    if streams:
        stream_train(sets, context, unit, draw, draw_chunk, describe, at_least)
    for name, fact in sets.stats.items():
        logger.info("%s: %s", name.capitalize(), fact)
    return sets


def stream_train(
    sets: DatasetSplits, context: RunContext, unit: str, draw, draw_chunk, describe, at_least: int
) -> None:
    """Add the training examples of a stream to the sets. Arguments as those of ``make_sets``.

    The beginning of the text is looked at now, so that what is wrong with it is found before the model is loaded.
    """
    corpus, limit = context.corpora[0], context.data_args.max_train_samples
    language = context.data_args.language
    with_words = getattr(context.data_args, "whole_word_mask", False)
    # A copy, since the stream is tokenized in a thread, during which the tokenizer's settings could not be changed.
    encoder, unknown = own_encoder(copy.deepcopy(context.tokenizer), with_words), unknown_id(context.tokenizer)
    tokenize_all = partial(tokenize, granularity=unit, encode=encoder, language=language, unknown=unknown)
    sets.train = StreamedExamples(
        corpus, partial(make_chunk, name=corpus.name, tokenize_all=tokenize_all, draw_chunk=draw_chunk), at_least, limit
    )
    documents = (Document(0, 0, number, lines) for number, lines in enumerate(read_documents(corpus)))
    beginning = [document.lines for document in next(cut_chunks(documents, CHUNK_CHARS, at_least))]
    part = Split(corpus.name, tokenize_all(beginning), None)
    if not len(part.corpus.tokens):
        raise UserError(f"{corpus.name}: the tokenizer finds no token in the text: is it the right one?")
    check_known(part.corpus.unknown_share, beginning, corpus.name, context.tokenizer)
    if with_words:
        check_words(part.corpus, context.tokenizer)
    examples = draw(part, 0)
    first = f"of the first {len(beginning):,} documents"
    text = f"{corpus.name}, streamed ({part.corpus.unknown_share:.1%} unknown tokens {first})"
    described = f"{describe(part, examples, limit)}, {first}"
    sets.stats = {"training text": text, "training examples": described} | sets.stats
    sets.samples = sets.samples or [examples[number] for number in range(min(SHOWN, limit or SHOWN, len(examples)))]


def make_chunk(
    documents: list[list[str]],
    rng: np.random.Generator,
    name: str,
    tokenize_all: Callable[[list[list[str]]], TokenizedCorpus],
    draw_chunk: Callable[[Split, np.random.Generator], Sequence],
) -> Sequence:
    part = Split(name, tokenize_all(documents), None)
    if part.corpus.unknown_share > MOST_UNKNOWN:
        # No error, as the beginning of the text was known: most of it may be.
        logger.warning(
            "UNKNOWN: %.1f %% of the tokens of %d documents in a row of %s are unknown to the tokenizer: see that they "
            "are of the same language or script as the others",
            100 * part.corpus.unknown_share,
            len(documents),
            name,
        )
    return draw_chunk(part, rng)


def describe_maskable(
    part: Split, examples: Sequence, limit: int | None, describe: Callable, special: Sequence[int]
) -> str:
    """Describe the examples; UserError if no token of theirs can be masked."""
    numbers = range(min(len(examples), limit or len(examples)))
    if all(np.isin(examples[number]["input_ids"], special).all() for number in numbers):
        raise UserError(
            f"{part.name}: nothing can be predicted, as all tokens are special ones, such as [UNK]: give more text, or "
            "a model or --tokenizer_name for such text"
        )
    return describe(part, examples, limit)


def prepare_parts(context: RunContext, unit: str, at_least: int = 1) -> tuple[Split | None, Split | None]:
    """Tokenize the training and the validation corpus, each if asked for.

    With no validation corpus, some documents of the training corpus are held out, ``at_least`` so many on each side.
    """
    data_args, training_args = context.data_args, context.training_args
    with_words = getattr(data_args, "whole_word_mask", False)
    if with_words:
        check_whole_words(context.tokenizer)
    prepare_one = partial(
        prepare,
        tokenizer=context.tokenizer,
        cache=context.cache,
        granularity=unit,
        with_words=with_words,
        language=data_args.language,
        faster=faster_encoder(context.tokenizer, data_args.tokenizer_backend, with_words),
        # One process does it again; the others wait for it at the lock, or take the same ids from before.
        overwrite=data_args.overwrite_cache and training_args.local_process_index == 0,
    )
    train, validation = (None if corpus is None else prepare_one(corpus) for corpus in context.corpora)
    for source, corpus in zip(context.corpora, (train, validation), strict=True):
        if corpus is not None:
            check_known(corpus.unknown_share, read_documents(source), source.name, context.tokenizer)
        if with_words and corpus is not None:
            check_words(corpus, context.tokenizer)
    documents, held_out = None, None
    if training_args.do_eval and validation is None:
        rng = np.random.default_rng(training_args.shuffle_seed)
        documents, held_out = hold_out(train, data_args.validation_split_percentage, rng, at_least)
    training = evaluation = None
    if training_args.do_train and train is not None:
        training = Split(context.corpora[0].name, train, documents)
    if validation is not None:
        evaluation = Split(context.corpora[1].name, validation, None)
    elif training_args.do_eval:
        evaluation = Split(context.corpora[0].name, train, held_out)
    return training, evaluation


def hold_out(
    corpus: TokenizedCorpus, percentage: float, rng: np.random.Generator, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the documents to train on and of those held out; warns where the latter are no such part of the text.

    A stray blank line in a file of lines makes two documents of it, one of which may be most of the text.
    """
    training, held_out = split_documents(corpus.num_documents, percentage, rng, at_least)
    share = 100 * corpus.count_tokens(held_out) / len(corpus.tokens)
    if share > 3 * percentage + 1:
        logger.warning(
            "HELD OUT: %.0f %% of the text, though %g %% of the documents: they are few or of unequal length; see that "
            "blank lines stand between documents only, or give --validation_file",
            share,
            percentage,
        )
    return training, held_out


def check_words(corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn where the tokenizer takes sentences for words, or single characters, as the script has no spaces."""
    sample = corpus.word_starts[:1_000_000]
    num_words = max(1, int(sample.sum()))
    tokens_a_word = len(sample) / num_words
    if tokens_a_word > MOST_TOKENS_A_WORD:
        logger.warning(
            "WHOLE WORDS: this tokenizer finds %.1f tokens a word, so that whole sentences would be masked: is the "
            "script one without spaces? Then drop --whole_word_mask",
            tokens_a_word,
        )
        return
    whole = sample & np.append(sample[1:], True)  # words of one token
    ids, counts = np.unique(corpus.tokens[: len(sample)][whole], return_counts=True)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    single = sum(count for token, count in zip(tokens, counts, strict=True) if is_character_without_spaces(token))
    if single > num_words / 2:
        logger.warning(
            "WHOLE WORDS: %.0f %% of the words that this tokenizer finds are single characters of a script without "
            "spaces, so that --whole_word_mask changes little or nothing: drop it",
            100 * single / num_words,
        )


def is_character_without_spaces(token: str) -> bool:
    character = token.removeprefix("\N{LOWER ONE EIGHTH BLOCK}")
    return len(character) == 1 and unicodedata.name(character, "").startswith(WITHOUT_SPACES)


def collect(
    parts: tuple[Split | None, Split | None],
    draw: Callable[[Split, int | None], Sequence],
    describe: Callable[[Split, Sequence, int | None], str],
    data_args: DataArguments,
) -> DatasetSplits:
    """The examples that ``draw(part, epoch)`` gives of the training and of the validation part.

    For evaluation the epoch is None. What ``describe(part, examples, limit)`` says of them is among the facts.
    """
    training, evaluation = parts
    sets = DatasetSplits()
    if training is not None:
        limit = data_args.max_train_samples
        sets.train = EpochDataset(partial(draw, training), limit)
        examples = sets.train.examples_for_epoch(0)
        sets.stats |= {"training text": str(training), "training examples": describe(training, examples, limit)}
        sets.samples = [examples[number] for number in range(min(SHOWN, limit or SHOWN, len(examples)))]
    if evaluation is not None:
        limit = data_args.max_eval_samples
        examples = draw(evaluation, None)
        # By length, so that a batch has little padding.
        sets.validation = Subset(examples, np.argsort(-examples.lengths[:limit], kind="stable"))
        sets.stats |= {"held-out text": str(evaluation), "held-out examples": describe(evaluation, examples, limit)}
        sets.samples = [examples[number] for number in range(min(SHOWN, len(sets.validation)))]
    return sets
