"""Split corpora to train and to evaluate on, make their examples, and report what was understood of the text."""

import copy
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from cloze.data.builders import ExampleBuilder, Split
from cloze.data.context import DataContext
from cloze.data.samplers import EpochDataset, longest_first
from cloze.data.streaming import Document, StreamedExamples, cut_chunks
from cloze.errors import UserError
from cloze.text.corpus import read_documents, split_documents
from cloze.tokenization.checks import MOST_UNKNOWN, check_known, check_whole_words
from cloze.tokenization.encoding import CHUNK_CHARS, Encoder, own_encoder
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.segmentation import check_language
from cloze.tokenization.token_cache import TokenizedCorpus, prepare, tokenize

logger = logging.getLogger(__name__)

# Above this, "words" are sentences of a script without spaces, which the tokenizer cannot tell apart.
MOST_TOKENS_A_WORD = 5
# How Unicode's names of their characters begin.
WITHOUT_SPACES = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

# Examples to look at in the report, and to predict at the end.
MAX_SAMPLES = 1_000


@dataclass
class DatasetSplits:
    """Hold the examples to train and to evaluate on, each if asked for.

    Attributes:
        stats: what they are made of, by title.
        samples: a few to look at, of the validation set if there is one.
    """

    train: EpochDataset | StreamedExamples | None = None
    validation: Subset | None = None
    stats: dict[str, str] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)

    def describe(self, name: str, split: Split, examples: Sequence, builder: ExampleBuilder, limit: int | None) -> None:
        """Add what the first ``limit`` examples of a split are made of, and take the samples from them."""
        self.stats |= {f"{name} text": str(split), f"{name} examples": builder.describe(split, examples, limit)}
        self.samples = _samples_of(examples, limit)


def make_splits(context: DataContext, builder: ExampleBuilder) -> DatasetSplits:
    """Return the examples of the training and of the validation corpus, and log what they are made of.

    With no validation corpus, some documents of the training corpus are held out. With ``streaming``, only the
    validation corpus is prepared.
    """
    check_language(context.data_args.language)
    streams = context.data_args.streaming and context.do_train
    # A stream is not prepared.
    prepared = replace(context, corpora=(None, context.corpora[1])) if streams else context
    training, validation = _prepare(prepared, builder)
    splits = DatasetSplits()
    if training is not None:
        limit = context.data_args.max_train_samples
        splits.train = EpochDataset(partial(builder.build, training), limit)
        splits.describe("training", training, splits.train.examples_for_epoch(0), builder, limit)
    if validation is not None:
        limit = context.data_args.max_eval_samples
        examples = builder.build(validation, None)
        splits.validation = longest_first(examples, limit)
        splits.describe("held-out", validation, examples, builder, limit)
    if streams:
        _stream_train(splits, context, builder)
    log_stats(splits)
    return splits


def log_stats(splits: DatasetSplits) -> None:
    """Log what the examples are made of."""
    for name, text in splits.stats.items():
        logger.info("%s: %s", name.capitalize(), text)


def _samples_of(examples: Sequence, limit: int | None) -> list[dict]:
    """Return samples, evenly spread over the first ``limit`` examples."""
    count = min(limit or len(examples), len(examples))
    return [examples[number] for number in np.linspace(0, count - 1, min(MAX_SAMPLES, count)).astype(int).tolist()]


def _stream_train(splits: DatasetSplits, context: DataContext, builder: ExampleBuilder) -> None:
    """Add the training examples of a stream to the splits.

    The beginning of the text is looked at now, so that what is wrong with it is found before the model is loaded.
    """
    corpus, limit = context.corpora[0], context.data_args.max_train_samples
    # A copy, since the stream is tokenized in a thread, during which the tokenizer's settings could not be changed.
    encoder = own_encoder(copy.deepcopy(context.tokenizer), builder.with_words)
    chunks = ChunkBuilder(corpus.name, builder, encoder, context.data_args.language, unknown_id(context.tokenizer))
    splits.train = StreamedExamples(corpus, chunks, builder.min_documents, limit)
    documents = (Document(0, 0, number, lines) for number, lines in enumerate(read_documents(corpus)))
    beginning = [document.lines for document in next(cut_chunks(documents, CHUNK_CHARS, builder.min_documents))]
    split = chunks.tokenize(beginning)
    if not len(split.corpus.tokens):
        raise UserError(f"{corpus.name}: the tokenizer finds no token in the text: is it the right one?")
    check_known(split.corpus.unknown_share, beginning, corpus.name, context.tokenizer)
    if builder.with_words:
        check_words(split.corpus, context.tokenizer)
    examples = builder.build(split, 0)
    first = f"of the first {len(beginning):,} documents"
    text = f"{corpus.name}, streamed ({split.corpus.unknown_share:.1%} unknown tokens {first})"
    described = f"{builder.describe(split, examples, limit)}, {first}"
    splits.stats = {"training text": text, "training examples": described} | splits.stats
    splits.samples = splits.samples or _samples_of(examples, limit)


@dataclass(frozen=True)
class ChunkBuilder:
    """Make the examples of some documents of a stream.

    Attributes:
        name: of the text.
        encoder: of its units.
        language: whose rules sentences are found by.
        unknown: id of the token that stands for unknown text, if there is one.
    """

    name: str
    builder: ExampleBuilder
    encoder: Encoder
    language: str = "en"
    unknown: int | None = None

    def tokenize(self, documents: list[list[str]]) -> Split:
        """Return documents, each a list of lines, as a split of their own."""
        corpus = tokenize(documents, self.builder.granularity, self.encoder, self.language, self.unknown)
        return Split(self.name, corpus, None)

    def __call__(self, documents: list[list[str]], rng: np.random.Generator) -> Sequence:
        split = self.tokenize(documents)
        if split.corpus.unknown_share > MOST_UNKNOWN:
            # No error, as the beginning of the text was known: most of it may be.
            logger.warning(
                "UNKNOWN: %.1f %% of the tokens of %d documents in a row of %s are unknown to the tokenizer: see that "
                "they are of the same language or script as the others",
                100 * split.corpus.unknown_share,
                len(documents),
                self.name,
            )
        return self.builder.build_chunk(split, rng)


def _prepare(context: DataContext, builder: ExampleBuilder) -> tuple[Split | None, Split | None]:
    """Tokenize the training and the validation corpus, each if asked for.

    With no validation corpus, some documents of the training corpus are held out, ``min_documents`` on each side.
    """
    data_args, with_words = context.data_args, builder.with_words
    if with_words:
        check_whole_words(context.tokenizer)
    prepare_one = partial(
        prepare,
        tokenizer=context.tokenizer,
        cache=context.cache,
        granularity=builder.granularity,
        with_words=with_words,
        language=data_args.language,
        faster=faster_encoder(context.tokenizer, data_args.tokenizer_backend, with_words),
        overwrite=context.overwrite_cache,
    )
    splits = [None if corpus is None else Split(corpus.name, prepare_one(corpus), None) for corpus in context.corpora]
    for source, split in zip(context.corpora, splits, strict=True):
        if split is not None:
            check_known(split.corpus.unknown_share, read_documents(source), source.name, context.tokenizer)
            if with_words:
                check_words(split.corpus, context.tokenizer)
    training, validation = splits
    if context.do_eval and validation is None:
        rng = np.random.default_rng(context.shuffle_seed)
        parts = hold_out(training.corpus, data_args.validation_split_percentage, rng, builder.min_documents)
        training, validation = (replace(training, documents=documents) for documents in parts)
    return training if context.do_train else None, validation


def hold_out(
    corpus: TokenizedCorpus, percentage: float, rng: np.random.Generator, min_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the documents to train on and of those held out; warn where these are more of the text.

    A stray blank line in a file of lines makes two documents of it, one of which may be most of the text.
    """
    training, held_out = split_documents(corpus.num_documents, percentage, rng, min_documents)
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
    single = sum(count for token, count in zip(tokens, counts, strict=True) if _is_character_without_spaces(token))
    if single > num_words / 2:
        logger.warning(
            "WHOLE WORDS: %.0f %% of the words that this tokenizer finds are single characters of a script without "
            "spaces, so that --whole_word_mask changes little or nothing: drop it",
            100 * single / num_words,
        )


def _is_character_without_spaces(token: str) -> bool:
    character = token.removeprefix("\N{LOWER ONE EIGHTH BLOCK}")
    return len(character) == 1 and unicodedata.name(character, "").startswith(WITHOUT_SPACES)
