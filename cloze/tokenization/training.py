"""Train tokenizers on a corpus: WordPiece (BERT), byte-level BPE (RoBERTa, GPT-2) and Unigram (XLNet)."""

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, takewhile
from typing import TypeVar

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer
from tqdm.auto import tqdm
from transformers import (
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLNetTokenizer,
)

from cloze.errors import UserError
from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization.encoding import PIECE

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A long text can be cut after a match.
BETWEEN_WORDS = re.compile(r"\w(?= \w)")
# Maximum characters, for byte-level BPE bytes, of a word in training, which takes time quadratic in the length.
LONGEST_WORD = 1_000

# XLNet's special tokens in the order of their ids.
XLNET_TOKENS = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")


def train_wordpiece(corpora: Sequence[Corpus], vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """Train a tokenizer like BERT's; keep accents, even in lower case, as they distinguish words in many languages."""
    backend: Tokenizer = BertTokenizer(do_lower_case=lower_case, strip_accents=False).backend_tokenizer
    special = [str(token) for token in backend.get_added_tokens_decoder().values()]
    train_pieces(lambda: join_lines(chain.from_iterable(map(read_documents, corpora))), backend, special, vocab_size)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return BertTokenizer(vocab=vocabulary, do_lower_case=lower_case, strip_accents=False)


def train_pieces(read: Callable[[], Iterator[str]], backend: Tokenizer, special: list[str], vocab_size: int) -> None:
    """Train the WordPiece model of a tokenizer on the texts that each call of ``read`` yields."""
    # The trainer numbers characters inside words in the order of a hash map, which differs from run to run and decides
    # between merges of equal count. Passing them in a fixed order makes training reproducible.
    texts = tqdm(read(), "collecting characters", unit=" documents", disable=not sys.stderr.isatty())
    characters = set(chain.from_iterable(texts))
    prefix = backend.model.continuing_subword_prefix
    continuing = [f"{prefix}{character}" for character in sorted(_characters_in_words(characters, backend))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + continuing,
        continuing_subword_prefix=prefix,
        show_progress=sys.stderr.isatty(),
    )
    train_in_thread(read(), backend, partial(backend.train_from_iterator, trainer=trainer))


def _characters_in_words(characters: Iterable[str], backend: Tokenizer) -> set[str]:
    """Return the normalized characters that can continue a word, unlike punctuation and Chinese characters."""
    inside: set[str] = set()
    for character in characters:
        word = f"a{character}a"
        if backend.normalizer:
            word = backend.normalizer.normalize_str(word)
        if len(backend.pre_tokenizer.pre_tokenize_str(word)) == 1:
            inside.update(word[1:-1])
    return inside


def train_byte_level(corpora: Sequence[Corpus], vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """Train a tokenizer like RoBERTa's, also for ModernBERT; raise UserError for ``lower_case``."""
    tokenizer = _train_bpe(RobertaTokenizer(), corpora, vocab_size, lower_case)
    # As in RoBERTa, the space before a mask belongs to the masked word.
    tokenizer.add_special_tokens({"mask_token": AddedToken(tokenizer.mask_token, lstrip=True, special=True)})
    return tokenizer


def train_gpt2(corpora: Sequence[Corpus], vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """Train a tokenizer like GPT-2's, with <|endoftext|> as its special token; raise UserError for ``lower_case``."""
    return _train_bpe(GPT2Tokenizer(), corpora, vocab_size, lower_case)


def _train_bpe(
    untrained: PreTrainedTokenizerFast, corpora: Sequence[Corpus], vocab_size: int, lower_case: bool
) -> PreTrainedTokenizerBase:
    """Train the byte-level BPE of a tokenizer."""
    if lower_case:
        raise UserError("--do_lower_case is for WordPiece tokenizers (bert, distilbert, electra): drop it")
    pre_tokenizer = untrained.backend_tokenizer.pre_tokenizer
    train = partial(untrained.train_new_from_iterator, vocab_size=vocab_size, show_progress=sys.stderr.isatty())
    tokenizer = train_in_thread(
        join_lines(chain.from_iterable(map(read_documents, corpora))), untrained.backend_tokenizer, train
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def train_unigram(corpora: Sequence[Corpus], vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """Train a tokenizer like XLNet's, with the same ids of special tokens."""
    unknown, *others = [(token, 0.0) for token in XLNET_TOKENS]
    backend: Tokenizer = XLNetTokenizer(vocab=[unknown], do_lower_case=lower_case).backend_tokenizer
    texts = join_lines(chain.from_iterable(map(read_documents, corpora)))
    scores = train_scores(texts, backend, list(XLNET_TOKENS), XLNET_TOKENS[0], vocab_size)
    return XLNetTokenizer(vocab=[unknown, *others, *scores.items()], do_lower_case=lower_case)


def train_scores(
    texts: Iterator[str], backend: Tokenizer, special: list[str], unknown: str, vocab_size: int
) -> dict[str, float]:
    """Train the Unigram model of a tokenizer on texts, and return its tokens with their scores, the best first.

    Special tokens and the unknown token are left out. The order of a hash map decides on the last digits of the
    library's scores, and on its ids.
    """
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token=unknown, show_progress=sys.stderr.isatty()
    )
    train_in_thread(texts, backend, partial(backend.train_from_iterator, trainer=trainer))
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    scores = {token: score for token, score in vocabulary if token not in (unknown, *special)}
    # Characters without a score get the lowest one, plus 0.0001 for each before them in the order of the hash map.
    lowest = min(scores.values())
    unscored = lowest + 0.0001 * sum(len(token) == 1 for token in scores)
    for token, score in scores.items():
        scores[token] = round(lowest if len(token) == 1 and score < unscored else score, 6)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def train_in_thread(texts: Iterator[str], backend: Tokenizer, train: Callable[[Iterator[str]], T]) -> T:
    """Return ``train(texts)``, called in a thread, with long words cut by the backend, whose pre-tokenizer changes.

    Training is one call of the library; in the main thread it would block Python's signal handlers.
    """
    texts = _check_long_words(texts, backend.normalizer, backend.pre_tokenizer)
    pieces = pre_tokenizers.FixedLength(length=LONGEST_WORD)
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, pieces])
    result: Future[T] = Future()
    stopped = threading.Event()

    def run() -> None:
        try:
            result.set_result(train(takewhile(lambda text: not stopped.is_set(), texts)))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        # A signal that another thread receives does not end an unlimited wait.
        while thread.is_alive():
            thread.join(timeout=0.05)
        return result.result()
    finally:
        # When a signal ends the process, the library must not call Python any more.
        stopped.set()
        thread.join(timeout=1)


def _check_long_words(
    texts: Iterator[str], normalizer: Normalizer | None, pre_tokenizer: PreTokenizer
) -> Iterator[str]:
    """Yield the texts unchanged, then warn if words in them are too long and were cut for training."""
    count = 0
    for text in texts:
        if any(len(run) > LONGEST_WORD for run in text.split()):
            normalized = normalizer.normalize_str(text) if normalizer else text
            count += sum(len(word) > LONGEST_WORD for word, _ in pre_tokenizer.pre_tokenize_str(normalized))
        yield text
    if count:
        logger.warning(
            "words longer than %s characters (%s) were cut to train the tokenizer: check that spaces separate words",
            f"{LONGEST_WORD:,}",
            f"{count:,}",
        )


def join_lines(documents: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the documents as texts, long ones cut at spaces between letters, where words end for most tokenizers."""
    for document in documents:
        text, begin = "\n".join(document), 0
        while found := BETWEEN_WORDS.search(text, begin + PIECE):
            yield text[begin : found.end()]
            begin = found.end()
        yield text[begin:]
