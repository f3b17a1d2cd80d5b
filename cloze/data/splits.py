"""Split corpora into training and held-out documents, make examples, and report statistics of the text."""

import copy
import logging
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from cloze.data.builders import ExampleBuilder, Split
from cloze.data.chunks import ChunkBuilder
from cloze.data.context import DataContext
from cloze.data.held_out import HeldOutExamples, WordNumbers
from cloze.data.mixed_stream import MixedStream
from cloze.data.mixture import Mixture
from cloze.data.samplers import EpochDataset, Examples, longest_first
from cloze.data.streaming import Document, StreamedExamples, cut_chunks
from cloze.errors import UserError
from cloze.text.corpus import Corpus, read_documents, split_documents
from cloze.tokenization.characters import characters_of
from cloze.tokenization.checks import check_known, check_whole_words
from cloze.tokenization.encoding import CHUNK_CHARS, own_encoder
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.segmentation import check_language
from cloze.tokenization.token_cache import TokenizedCorpus, prepare

logger = logging.getLogger(__name__)

# Above this, the "words" are probably sentences of a script without spaces.
MAX_TOKENS_PER_WORD = 5
# First words of the Unicode names of characters in scripts without spaces.
WITHOUT_SPACES = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

# Of training and of evaluations.
WHOLE_WORD_FLAGS = ("--whole_word_mask", "--eval_whole_word_mask")

# Examples for the report, and for the predictions at the end.
MAX_SAMPLES = 1_000


@dataclass
class DatasetSplits:
    """Hold the examples to train and to evaluate on.

    Attributes:
        train: training examples, None if not needed.
        validation: evaluation examples by the name of the held-out set, "" for one without; empty if not needed.
        stats: statistics of text and examples, by title.
        samples: a few examples, from the first held-out set if there is one.
    """

    train: EpochDataset | StreamedExamples | MixedStream | None = None
    validation: dict[str, Subset] = field(default_factory=dict)
    stats: dict[str, str] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)

    def describe(
        self, title: str, name: str, split: Split, examples: Examples, builder: ExampleBuilder, limit: int | None
    ) -> None:
        """Add statistics of the first ``limit`` examples of a split; ``name`` is "" for a text without a name."""
        suffix = f", {name}" if name else ""
        description = builder.describe(split, examples, limit)
        self.stats |= {f"{title} text{suffix}": str(split), f"{title} examples{suffix}": description}


def make_splits(context: DataContext, builder: ExampleBuilder) -> DatasetSplits:
    """Return the examples to train and to evaluate on, and log their statistics.

    Without validation texts, some documents of each training text are held out. With ``streaming``, only the
    validation texts are prepared.
    """
    check_language(context.data_args.language)
    streamed = context.corpora.train if context.data_args.streaming and context.do_train else {}
    prepared = replace(context, corpora=context.corpora._replace(train={})) if streamed else context
    training, validation = _prepare(prepared, builder)
    splits = DatasetSplits()
    if training:
        _add_training(splits, training, context, builder)
    if validation:
        splits.samples = []
    for name, split in validation.items():
        limit = context.data_args.max_eval_samples
        examples = builder.build(_without_words(split), None)
        words = WordNumbers(split.corpus, characters_of(context.tokenizer)) if builder.eval_words else None
        splits.validation[name] = longest_first(HeldOutExamples(examples, split.corpus, words), limit)
        splits.describe("held-out", name, split, examples, builder, limit)
        splits.samples = splits.samples or samples_of(examples, limit)
    if streamed:
        _stream_training(splits, streamed, context, builder)
    log_stats(splits)
    return splits


def _without_words(split: Split) -> Split:
    """Return the split without its word starts, for examples that do not need them."""
    return replace(split, corpus=replace(split.corpus, word_starts=None))


def log_stats(splits: DatasetSplits) -> None:
    """Log the statistics of text and examples."""
    for name, text in splits.stats.items():
        logger.info("%s: %s", name[0].upper() + name[1:], text)


def samples_of(examples: Examples, limit: int | None = None) -> list[dict]:
    """Return samples, evenly spread over the first ``limit`` examples: neighbours may be alike."""
    count = min(limit or len(examples), len(examples))
    return [examples[number] for number in np.linspace(0, count - 1, min(MAX_SAMPLES, count)).astype(int).tolist()]


def _add_training(
    splits: DatasetSplits, training: dict[str, Split], context: DataContext, builder: ExampleBuilder
) -> None:
    """Add the training examples of prepared texts to the splits; of several texts, a mixture."""
    limits = _limits(training, context)
    draws = {
        name: partial(builder.build, split if builder.train_words else _without_words(split))
        for name, split in training.items()
    }
    first = next(iter(training))
    if len(training) > 1:
        mixture = Mixture(draws, context.data_args.shares, context.shuffle_seed, limits[first])
        passes = {name: mixture.passes[name, 0] for name in draws}
        splits.train = EpochDataset(mixture)
    else:
        splits.train = EpochDataset(draws[first], limits[first])
        passes = {first: splits.train.examples_for_epoch(0)}
    for name, split in training.items():
        splits.describe("training", name, split, passes[name], builder, limits[name])
    if len(training) > 1:
        splits.stats["mixture"] = mixture.describe()
    splits.samples = samples_of(passes[first], limits[first])


def _stream_training(
    splits: DatasetSplits, corpora: dict[str, Corpus], context: DataContext, builder: ExampleBuilder
) -> None:
    """Add the training examples of streams to the splits; of several texts, a mixture."""
    held_out, splits.stats = splits.stats, {}
    limits = _limits(corpora, context)
    streams = {
        name: _stream_text(splits, name, corpus, context, builder, limits[name]) for name, corpus in corpora.items()
    }
    splits.train = next(iter(streams.values()))
    if len(streams) > 1:
        splits.train = MixedStream(streams, context.data_args.shares)
        splits.stats["mixture"] = splits.train.describe()
    splits.stats |= held_out


def _limits(texts: Iterable[str], context: DataContext) -> dict[str, int | None]:
    """Return how many examples of each text to use: --max_train_samples is for the first one."""
    first, *others = texts
    return {first: context.data_args.max_train_samples, **dict.fromkeys(others)}


def _stream_text(
    splits: DatasetSplits, name: str, corpus: Corpus, context: DataContext, builder: ExampleBuilder, limit: int | None
) -> StreamedExamples:
    """Return the examples of a stream, and add their statistics to the splits.

    The first documents are tokenized and checked now, to report errors before the model is loaded.
    """
    # A copy, because another thread tokenizes the stream, and the tokenizer's settings cannot change meanwhile.
    encoder = own_encoder(copy.deepcopy(context.tokenizer), builder.train_words)
    chunks = ChunkBuilder(corpus.name, builder, encoder, context.data_args.language, unknown_id(context.tokenizer))
    documents = (Document(0, 0, number, lines) for number, lines in enumerate(read_documents(corpus)))
    beginning = [document.lines for document in next(cut_chunks(documents, CHUNK_CHARS, builder.min_documents))]
    split = chunks.tokenize(beginning)
    if not len(split.corpus.tokens):
        raise UserError(
            f"{corpus.name}: the tokenizer finds no token in the text: give a model or --tokenizer_name for this text"
        )
    check_known(split.corpus.unknown_share, beginning, corpus.name, context.tokenizer)
    if builder.train_words:
        check_words(split.corpus, context.tokenizer, WHOLE_WORD_FLAGS[0])
    examples = builder.build(split, 0)
    first = f"of the first {len(beginning):,} documents"
    text = f"{corpus.name}, streamed ({split.corpus.unknown_share:.1%} unknown tokens {first})"
    described = f"{builder.describe(split, examples, limit)}, {first}"
    suffix = f", {name}" if name else ""
    splits.stats |= {f"training text{suffix}": text, f"training examples{suffix}": described}
    splits.samples = splits.samples or samples_of(examples, limit)
    return StreamedExamples(corpus, chunks, builder.min_documents, limit)


def _prepare(context: DataContext, builder: ExampleBuilder) -> tuple[dict[str, Split], dict[str, Split]]:
    """Tokenize the training and the validation texts that are needed, and return them by name.

    Without validation texts, some documents of each training text are held out. Each split gets at least
    ``min_documents``.
    """
    corpora, train_words, eval_words = context.corpora, builder.train_words, builder.eval_words
    holds_out = context.do_eval and not corpora.validation
    needed = train_words, eval_words and holds_out
    training = {name: _prepare_one(corpus, context, builder, *needed) for name, corpus in corpora.train.items()}
    needed = False, eval_words
    validation = {name: _prepare_one(corpus, context, builder, *needed) for name, corpus in corpora.validation.items()}
    for name, split in training.items() if holds_out else ():
        rng, percentage = np.random.default_rng(context.shuffle_seed), context.data_args.validation_split_percentage
        parts = hold_out(split.corpus, percentage, rng, builder.min_documents)
        training[name], validation[name] = (replace(split, documents=documents) for documents in parts)
    return training if context.do_train else {}, validation


def _prepare_one(
    source: Corpus, context: DataContext, builder: ExampleBuilder, train_words: bool, eval_words: bool
) -> Split:
    """Tokenize a corpus, with word starts if training or evaluation examples need them, and check it."""
    tokenizer, with_words = context.tokenizer, train_words or eval_words
    flag = WHOLE_WORD_FLAGS[not train_words]
    if with_words:
        check_whole_words(tokenizer, flag)
    corpus = prepare(
        source,
        tokenizer,
        context.cache,
        granularity=builder.granularity,
        with_words=with_words,
        language=context.data_args.language,
        faster=faster_encoder(tokenizer, context.data_args.tokenizer_backend, with_words),
        overwrite=context.overwrite_cache,
    )
    check_known(corpus.unknown_share, read_documents(source), source.name, tokenizer)
    if with_words:
        check_words(corpus, tokenizer, flag)
    return Split(source.name, corpus, None)


def hold_out(
    corpus: TokenizedCorpus, percentage: float, rng: np.random.Generator, min_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training documents and of the held-out documents, both ascending.

    Warn if the held-out documents have too large a share of the text. A stray blank line in a file of lines, for
    example, makes two documents, and one of them may be most of the text.
    """
    training, held_out = split_documents(corpus.num_documents, percentage, rng, min_documents)
    share = 100 * corpus.count_tokens(held_out) / len(corpus.tokens)
    if share > 3 * percentage + 1:
        logger.warning(
            "held-out documents have %.0f %% of the text, but --validation_split_percentage is %g: documents are few "
            "or differ in length; use blank lines only between documents, or give --validation_file",
            share,
            percentage,
        )
    return training, held_out


def check_words(corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerBase, flag: str) -> None:
    """Warn that the flag is of little use if the "words" are sentences or characters of a script without spaces."""
    assert corpus.word_starts is not None
    sample = corpus.word_starts[:1_000_000]
    num_words = max(1, int(sample.sum()))
    tokens_per_word = len(sample) / num_words
    if tokens_per_word > MAX_TOKENS_PER_WORD:
        logger.warning(
            "%s masks whole sentences, because the tokenizer finds %.1f tokens per word: drop the flag if the script "
            "has no spaces",
            flag,
            tokens_per_word,
        )
        return
    whole = sample & np.append(sample[1:], True)  # words of one token
    ids, counts = np.unique(corpus.tokens[: len(sample)][whole], return_counts=True)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    single = sum(count for token, count in zip(tokens, counts, strict=True) if _is_character_without_spaces(token))
    if single > num_words / 2:
        logger.warning(
            "%s has little effect, because %.0f %% of the words are single characters of a script without spaces: drop "
            "the flag",
            flag,
            100 * single / num_words,
        )


def _is_character_without_spaces(token: str) -> bool:
    character = token.removeprefix("\N{LOWER ONE EIGHTH BLOCK}")
    return len(character) == 1 and unicodedata.name(character, "").startswith(WITHOUT_SPACES)
