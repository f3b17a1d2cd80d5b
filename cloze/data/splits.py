"""Split corpora into training and held-out documents, make examples, and report statistics of the text."""

import copy
import logging
import unicodedata
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from cloze.data.builders import ExampleBuilder, Split
from cloze.data.context import DataContext
from cloze.data.samplers import EpochDataset, Examples, longest_first
from cloze.data.streaming import Document, StreamedExamples, cut_chunks
from cloze.errors import UserError
from cloze.text.corpus import Corpus, read_documents, split_documents
from cloze.tokenization.checks import MOST_UNKNOWN, check_known, check_whole_words
from cloze.tokenization.encoding import CHUNK_CHARS, Encoder, own_encoder
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.segmentation import check_language
from cloze.tokenization.token_cache import TokenizedCorpus, prepare, tokenize

logger = logging.getLogger(__name__)

# Above this, the "words" are probably sentences of a script without spaces.
MAX_TOKENS_PER_WORD = 5
# First words of the Unicode names of characters in scripts without spaces.
WITHOUT_SPACES = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

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

    train: EpochDataset | StreamedExamples | None = None
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
    if len(training) > 1 or len(streamed) > 1:
        raise UserError("--train_file: several named texts cannot be mixed yet: give one name")
    splits = DatasetSplits()
    for name, split in training.items():
        limit = context.data_args.max_train_samples
        splits.train = EpochDataset(partial(builder.build, split), limit)
        examples = splits.train.examples_for_epoch(0)
        splits.describe("training", name, split, examples, builder, limit)
        splits.samples = _samples_of(examples, limit)
    if validation:
        splits.samples = []
    for name, split in validation.items():
        limit = context.data_args.max_eval_samples
        examples = builder.build(split, None)
        splits.validation[name] = longest_first(examples, limit)
        splits.describe("held-out", name, split, examples, builder, limit)
        splits.samples = splits.samples or _samples_of(examples, limit)
    for corpus in streamed.values():
        _stream_train(splits, corpus, context, builder)
    log_stats(splits)
    return splits


def log_stats(splits: DatasetSplits) -> None:
    """Log the statistics of text and examples."""
    for name, text in splits.stats.items():
        logger.info("%s: %s", name.capitalize(), text)


def _samples_of(examples: Examples, limit: int | None) -> list[dict]:
    """Return samples, evenly spread over the first ``limit`` examples."""
    count = min(limit or len(examples), len(examples))
    return [examples[number] for number in np.linspace(0, count - 1, min(MAX_SAMPLES, count)).astype(int).tolist()]


def _stream_train(splits: DatasetSplits, corpus: Corpus, context: DataContext, builder: ExampleBuilder) -> None:
    """Add the training examples of a stream to the splits.

    The first documents are tokenized and checked now, to report errors before the model is loaded.
    """
    limit = context.data_args.max_train_samples
    # A copy, because another thread tokenizes the stream, and the tokenizer's settings cannot change meanwhile.
    encoder = own_encoder(copy.deepcopy(context.tokenizer), builder.with_words)
    chunks = ChunkBuilder(corpus.name, builder, encoder, context.data_args.language, unknown_id(context.tokenizer))
    splits.train = StreamedExamples(corpus, chunks, builder.min_documents, limit)
    documents = (Document(0, 0, number, lines) for number, lines in enumerate(read_documents(corpus)))
    beginning = [document.lines for document in next(cut_chunks(documents, CHUNK_CHARS, builder.min_documents))]
    split = chunks.tokenize(beginning)
    if not len(split.corpus.tokens):
        raise UserError(
            f"{corpus.name}: the tokenizer finds no token in the text: give a model or --tokenizer_name for this text"
        )
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
    """Turn a chunk of a stream into examples.

    Attributes:
        name: of the corpus.
        builder: makes the examples.
        encoder: tokenizes the text.
        language: of the text, an ISO 639 code, for sentence splitting.
        unknown: id of the token for unknown text, None if there is none.
    """

    name: str
    builder: ExampleBuilder
    encoder: Encoder
    language: str = "en"
    unknown: int | None = None

    def tokenize(self, documents: list[list[str]]) -> Split:
        """Return a split of these documents, each a list of lines."""
        corpus = tokenize(documents, self.builder.granularity, self.encoder, self.language, self.unknown)
        return Split(self.name, corpus, None)

    def __call__(self, documents: list[list[str]], rng: np.random.Generator) -> Examples:
        """Return the examples of documents, each a list of lines; warn if most of their tokens are unknown."""
        split = self.tokenize(documents)
        if split.corpus.unknown_share > MOST_UNKNOWN:
            # Not an error: the first documents were known, and most others may be.
            logger.warning(
                "%s: %.1f %% of the tokens in %d consecutive documents are unknown to the tokenizer: check that they "
                "are in the language or script of the other documents",
                self.name,
                100 * split.corpus.unknown_share,
                len(documents),
            )
        return self.builder.build_chunk(split, rng)


def _prepare(context: DataContext, builder: ExampleBuilder) -> tuple[dict[str, Split], dict[str, Split]]:
    """Tokenize the training and the validation texts that are needed, and return them by name.

    Without validation texts, some documents of each training text are held out. Each split gets at least
    ``min_documents``.
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

    def prepare_each(corpora: dict[str, Corpus]) -> dict[str, Split]:
        return {name: Split(corpus.name, prepare_one(corpus), None) for name, corpus in corpora.items()}

    training, validation = prepare_each(context.corpora.train), prepare_each(context.corpora.validation)
    for source, split in zip(context.corpora.all, [*training.values(), *validation.values()], strict=True):
        check_known(split.corpus.unknown_share, read_documents(source), source.name, context.tokenizer)
        if with_words:
            check_words(split.corpus, context.tokenizer)
    if context.do_eval and not validation:
        for name, split in training.items():
            rng = np.random.default_rng(context.shuffle_seed)
            parts = hold_out(split.corpus, data_args.validation_split_percentage, rng, builder.min_documents)
            training[name], validation[name] = (replace(split, documents=documents) for documents in parts)
    return training if context.do_train else {}, validation


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


def check_words(corpus: TokenizedCorpus, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if the "words" are sentences or single characters, because the script has no spaces."""
    assert corpus.word_starts is not None
    sample = corpus.word_starts[:1_000_000]
    num_words = max(1, int(sample.sum()))
    tokens_per_word = len(sample) / num_words
    if tokens_per_word > MAX_TOKENS_PER_WORD:
        logger.warning(
            "--whole_word_mask masks whole sentences, because the tokenizer finds %.1f tokens per word: drop the flag "
            "if the script has no spaces",
            tokens_per_word,
        )
        return
    whole = sample & np.append(sample[1:], True)  # words of one token
    ids, counts = np.unique(corpus.tokens[: len(sample)][whole], return_counts=True)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    single = sum(count for token, count in zip(tokens, counts, strict=True) if _is_character_without_spaces(token))
    if single > num_words / 2:
        logger.warning(
            "--whole_word_mask has little effect, because %.0f %% of the words are single characters of a script "
            "without spaces: drop the flag",
            100 * single / num_words,
        )


def _is_character_without_spaces(token: str) -> bool:
    character = token.removeprefix("\N{LOWER ONE EIGHTH BLOCK}")
    return len(character) == 1 and unicodedata.name(character, "").startswith(WITHOUT_SPACES)
