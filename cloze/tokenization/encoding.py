"""Encode texts as token ids, in chunks of bounded memory."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.tokenization.properties import plain_backend

logger = logging.getLogger(__name__)

# Approximate characters per call of a tokenizer.
CHUNK_CHARS = 250_000

# The tokenizers library takes a hundred bytes of memory per byte of text, so long texts are encoded in pieces of about
# PIECE characters. A piece ends at one of at most TRIES positions, checked on MARGIN characters on each side.
PIECE = CHUNK_CHARS // 4
MARGIN = 300
TRIES = 8


@dataclass(frozen=True)
class Encoded:
    """Hold the concatenated ids of several texts, without special tokens.

    Attributes:
        ids: [tokens].
        word_starts: whether a word starts at each token, [tokens], or None.
        lengths: tokens in each text, [texts].
    """

    ids: np.ndarray
    word_starts: np.ndarray | None
    lengths: np.ndarray

    def texts(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return the ids [tokens] and the word starts, [tokens] or None, of each text."""
        ends = np.cumsum(self.lengths).tolist()
        spans = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        return [(self.ids[span], None if self.word_starts is None else self.word_starts[span]) for span in spans]


Encoder = Callable[[list[str]], Encoded]


def encode(
    documents: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase, with_words: bool
) -> Iterator[list[tuple[np.ndarray, np.ndarray | None]]]:
    """Yield the units of each document, without special tokens.

    A unit is its ids [tokens] and, if ``with_words``, whether a word starts at each token [tokens], else None.
    """
    encoder = own_encoder(tokenizer, with_words)
    for texts, counts in chunk_documents(documents):
        units = iter(encoder(texts).texts())
        for count in counts:
            yield list(islice(units, count))


def chunk_documents(documents: Iterable[Sequence[str]]) -> Iterator[tuple[list[str], list[int]]]:
    """Yield chunks of whole documents: texts of CHUNK_CHARS or more, and the number of texts in each document."""
    texts: list[str] = []
    counts: list[int] = []
    characters = 0
    for document in documents:
        texts += document
        counts.append(len(document))
        characters += sum(map(len, document))
        if characters >= CHUNK_CHARS:
            yield texts, counts
            texts, counts, characters = [], [], 0
    if counts:
        yield texts, counts


def take_characters(texts: list[str], characters: int) -> list[str]:
    """Return texts with the first N characters in total, truncating the last one."""
    found: list[str] = []
    for text in texts:
        if characters <= 0:
            break
        found.append(text[:characters])
        characters -= len(text)
    return found


def own_encoder(tokenizer: PreTrainedTokenizerBase, with_words: bool) -> Encoder:
    """Return the encoder that calls the tokenizer itself, fast or slow."""
    if tokenizer.is_fast:
        return partial(encode_fast, backend=plain_backend(tokenizer), with_words=with_words)
    assert not with_words, "check_whole_words refuses slow tokenizers"
    return partial(_encode_slow, tokenizer=tokenizer)


def encode_fast(texts: list[str], backend: Tokenizer, with_words: bool) -> Encoded:
    """Encode texts with the tokenizers library, long ones in pieces."""
    if sum(map(len, texts)) <= 2 * CHUNK_CHARS:
        return _encode_at_once(texts, backend, with_words)
    owners: list[int] = []

    def pieces() -> Iterator[list[str]]:
        for number, text in enumerate(texts):
            for piece in cut_text(text, backend):
                owners.append(number)
                yield [piece]

    parts = [_encode_at_once(batch, backend, with_words) for batch, _ in chunk_documents(pieces())]
    lengths = np.zeros(len(texts), np.int64)
    np.add.at(lengths, owners, np.concatenate([part.lengths for part in parts]))
    words = np.concatenate([part.word_starts for part in parts]) if with_words else None
    return Encoded(np.concatenate([part.ids for part in parts]), words, lengths)


def cut_text(text: str, backend: Tokenizer) -> Iterator[str]:
    """Yield pieces of a text whose concatenated ids equal the ids of the text; cut only where this is certain."""
    begin = 0
    for middle in range(PIECE, len(text) - MARGIN, PIECE):
        cut = _find_cut(text[middle - MARGIN : middle + MARGIN], backend)
        if cut is not None:
            yield text[begin : middle - MARGIN + cut]
            begin = middle - MARGIN + cut
    yield text[begin:]


def _find_cut(text: str, backend: Tokenizer) -> int | None:
    """Return a position near the middle, between two words, where no token depends on the other side; else None.

    Encoded separately, the two sides give the tokens of the whole text, also if it is a character shorter at both ends.
    Digits that the tokenizer groups from the left or the right, for example, do not.
    """
    (whole,) = _encode_batch([text], backend)
    words = whole.word_ids
    ends = [end for (_, end), word, after in zip(whole.offsets, words, words[1:], strict=False) if word != after]
    for end in sorted(ends, key=lambda end: abs(end - len(text) // 2))[:TRIES]:
        parts = _encode_batch([text[:end], text[end:], text[1:end], text[end:-1], text[1:-1]], backend)
        left, right, later, earlier, shorter = map(_tokens, parts)
        if left and right and left + right == _tokens(whole) and later + earlier == shorter:
            return end
    return None


def _tokens(encoding: Encoding) -> list[tuple[int, bool]]:
    """Return the id of each token and whether a word starts there."""
    words = encoding.word_ids
    starts = [word is None or word != before for word, before in zip(words, [-1, *words], strict=False)]
    return list(zip(encoding.ids, starts, strict=True))


def _encode_batch(texts: list[str], backend: Tokenizer, with_words: bool = True) -> list[Encoding]:
    """Encode texts without special tokens; raise UserError if the vocabulary lacks the unknown token it needs."""
    # encode_batch_fast does not track words.
    encode_batch = backend.encode_batch if with_words else backend.encode_batch_fast
    try:
        return encode_batch(texts, add_special_tokens=False)
    # The library raises a bare Exception.
    except Exception as error:
        raise UserError(
            f"the tokenizer cannot encode the text ({error}): add the token to its vocabulary, or give another "
            "--tokenizer_name PATH"
        ) from None


def _encode_at_once(texts: list[str], backend: Tokenizer, with_words: bool) -> Encoded:
    encodings = _encode_batch(texts, backend, with_words)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.uint32, lengths.sum())
    if not with_words:
        return Encoded(ids, None, lengths)
    words = np.fromiter(chain.from_iterable(encoding.word_ids for encoding in encodings), float, lengths.sum())
    starts = np.diff(words, prepend=-1) != 0
    starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    return Encoded(ids, starts, lengths)


def _encode_slow(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode texts with a tokenizer written in Python, which does not track words."""
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Encoded(np.fromiter(chain.from_iterable(rows), np.uint32, lengths.sum()), None, lengths)
