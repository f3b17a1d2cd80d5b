"""Text -> token ids, portion by portion; by the tokenizers library, or by nanotoken where both give the same ids."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError

logger = logging.getLogger(__name__)

# Text is handed to the tokenizer in portions of about this many characters; as many are the sample that judges
# nanotoken.
CHUNK_CHARS = 250_000
# So many portions are tokenized while text is read and ids are written, in threads of their own: while Python is busy
# with the ids of one, the other has the processors.
PREFETCH = 2

# The tokenizers library takes a hundred bytes for each of a text: a long one is encoded in pieces of about PIECE
# characters. Where one ends is decided by MARGIN characters on both sides, and TRIES places are tried.
PIECE = CHUNK_CHARS // 4
MARGIN = 300
TRIES = 8

# Words that nanotoken remembers in each of its threads, 12 MB of them. Its own default of a million takes gigabytes
# where there are many processors, for words too rare to be worth it.
REMEMBERED = 2**15

# Where one tokenizer may differ from another, though they agree on most text; added tokens are put to the test besides.
HARD_TEXTS = (
    "",
    " \t\n\r ",
    "Ça déjà vu: naïve Ärztin, Łódź, e\u0301 A\u030a \u1e69 s\u0323\u0307",
    "ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ straße STRASSE İstanbul Iğdır \u0131I ǅ \ufb01ne \u2460 \u00bd x\u00b2 \uff21\uff22",  # noqa: RUF001
    "漢字と仮名カタカナ 한국어 \u1112\u1161\u11ab 中文abc中123文 \U00020000\U0002b740",
    "हिन्दी की मात्राएँ, ภาษาไทย, עִבְרִית, العَرَبِيَّة, ქართული ᲥᲐᲠᲗᲣᲚᲘ, Đà Nẵng, ꭰꮃ",
    "🦑👩\u200d👩\u200d👧\u200d👦 🇫🇮 👍🏽 \u2764\ufe0f :-) \u263a",
    "a\x00b \ufffd c\x01d\x0be\x0cf\x1cg\x7fh\x85i\u00adj\u200bk\u2060l\ufeffm\u202en\ue000o\U000e0001p",
    "a\u00a0b\u1680c\u2003d\u2028e\u2029f\u202fg\u3000h",
    "it's “quoted” – don’t… $5 €5 ¥5 a_b a-b a/b 3.14 ^~`|=<>+ § ¶ ·\u02bc՚৽ 、。「」",  # noqa: RUF001
    "## ##ing # a##b [UNK] [PAD] [CLS] [SEP] [MASK] [ SEP ] [sep] x[MASK]y [SEP][SEP] <s> <mask> </s>",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "d" * 5000 + " " + "é" * 100 + " " + "漢" * 200,
)


@dataclass(frozen=True)
class Encoded:
    """The ids of some texts, one after another, without special tokens.

    Attributes:
        ids: [tokens].
        word_starts: whether a word starts at each token, [tokens], or None.
        lengths: tokens in each text, [texts].
    """

    ids: np.ndarray
    word_starts: np.ndarray | None
    lengths: np.ndarray

    def texts(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each text's ids and word starts."""
        ends = np.cumsum(self.lengths).tolist()
        places = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        return [(self.ids[place], None if self.word_starts is None else self.word_starts[place]) for place in places]


Encoder = Callable[[list[str]], Encoded]


def encode(
    documents: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase, with_words: bool
) -> Iterator[list[tuple[np.ndarray, np.ndarray | None]]]:
    """Each document's units as (ids [tokens], whether a word starts there [tokens] or None), without special tokens."""
    encoder = own_encoder(tokenizer, with_words)
    for texts, counts in portions(documents):
        units = iter(encoder(texts).texts())
        for count in counts:
            yield list(islice(units, count))


def encode_ahead(
    documents: Iterable[Sequence[str]], own: Encoder, faster: Encoder | None = None
) -> Iterator[tuple[Encoded, list[int]]]:
    """Portion by portion, the documents' units and how many each document has [documents].

    By the tokenizer's ``own`` encoder, or by a ``faster`` one that gives the same ids for the beginning of the text.
    """
    all_portions = portions(documents)
    first = next(all_portions, None)
    if first is None:
        return
    encoder = own
    if faster is not None:
        sample = beginning(first[0], CHUNK_CHARS)
        if same_ids(sample, own(sample), faster, "text"):
            logger.info("Tokenizing with nanotoken, which gives the ids of the tokenizer itself")
            encoder = faster
    all_portions = chain([first], all_portions)
    # A long document need not stay in memory until all is done.
    del first
    waiting: deque = deque()
    with ThreadPoolExecutor(PREFETCH) as pool:
        for texts, counts in all_portions:
            is_long = sum(map(len, texts)) > 2 * CHUNK_CHARS
            waiting.append((pool.submit(encoder, texts), counts))
            del texts
            # Nothing is read while a long document is encoded.
            while waiting and (is_long or len(waiting) > PREFETCH):
                yield _next_result(waiting)
        while waiting:
            yield _next_result(waiting)


def _next_result(waiting: deque) -> tuple[Encoded, list[int]]:
    future, counts = waiting.popleft()
    return future.result(), counts


def portions(documents: Iterable[Sequence[str]]) -> Iterator[tuple[list[str], list[int]]]:
    """The texts of some documents in a row, and how many each document has [documents]."""
    texts, counts, characters = [], [], 0
    for document in documents:
        texts += document
        counts.append(len(document))
        characters += sum(map(len, document))
        if characters >= CHUNK_CHARS:
            yield texts, counts
            texts, counts, characters = [], [], 0
    if counts:
        yield texts, counts


def beginning(texts: list[str], characters: int) -> list[str]:
    """The first so many characters of the texts."""
    found = []
    for text in texts:
        if characters <= 0:
            break
        found.append(text[:characters])
        characters -= len(text)
    return found


def own_encoder(tokenizer: PreTrainedTokenizerBase, with_words: bool) -> Encoder:
    if tokenizer.is_fast:
        return partial(encode_fast, backend=plain_backend(tokenizer), with_words=with_words)
    assert not with_words, "check_whole_words refuses slow tokenizers"
    return partial(encode_slow, tokenizer=tokenizer)


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A fast tokenizer's, without the truncation and padding that a tokenizer.json may come with."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def encode_fast(texts: list[str], backend: Tokenizer, with_words: bool) -> Encoded:
    if sum(map(len, texts)) <= 2 * CHUNK_CHARS:
        return _encode_at_once(texts, backend, with_words)
    owners: list[int] = []

    def pieces() -> Iterator[list[str]]:
        for number, text in enumerate(texts):
            for piece in cut_text(text, backend):
                owners.append(number)
                yield [piece]

    parts = [_encode_at_once(batch, backend, with_words) for batch, _ in portions(pieces())]
    lengths = np.zeros(len(texts), np.int64)
    np.add.at(lengths, owners, np.concatenate([part.lengths for part in parts]))
    words = np.concatenate([part.word_starts for part in parts]) if with_words else None
    return Encoded(np.concatenate([part.ids for part in parts]), words, lengths)


def cut_text(text: str, backend: Tokenizer) -> Iterator[str]:
    """Yield a text in pieces that give the ids of the whole; or the whole, where no place is safe to cut."""
    begin = 0
    for about in range(PIECE, len(text) - MARGIN, PIECE):
        end = _find_cut(text[about - MARGIN : about + MARGIN], backend)
        if end is not None:
            yield text[begin : about - MARGIN + end]
            begin = about - MARGIN + end
    yield text[begin:]


def _find_cut(text: str, backend: Tokenizer) -> int | None:
    """Return a place near the middle where two words meet and no token depends on the other side, if there is one.

    There, the two sides encoded by themselves give the tokens of the whole, also of one that is a character shorter at
    both ends: digits that are grouped from the left or the right, for one, do not.
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
    """Return each token's id, and whether a word begins there."""
    words = encoding.word_ids
    starts = [word is None or word != before for word, before in zip(words, [-1, *words], strict=False)]
    return list(zip(encoding.ids, starts, strict=True))


def _encode_batch(texts: list[str], backend: Tokenizer, with_words: bool = True) -> list[Encoding]:
    # encode_batch_fast does not track words.
    encode_batch = backend.encode_batch if with_words else backend.encode_batch_fast
    try:
        return encode_batch(texts, add_special_tokens=False)
    # A bare one, where the vocabulary lacks the token for unknown text that its model would give.
    except Exception as error:
        raise UserError(
            f"the tokenizer cannot encode the text ({error}): add the token to its vocabulary, or give "
            "--tokenizer_name PATH of another"
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


def encode_slow(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Encoded(np.fromiter(chain.from_iterable(rows), np.uint32, lengths.sum()), None, lengths)


def faster_encoder(tokenizer: PreTrainedTokenizerBase, choice: str, with_words: bool) -> Encoder | None:
    """That of nanotoken, if it stands the test; None if it cannot be used and ``choice`` is ``auto``, or another."""
    try:
        faster = None if choice == "tokenizers" else nanotoken_encoder(tokenizer, with_words)
    except UserError:
        if choice == "nanotoken":
            raise
        faster = None
    if faster is None:
        return None
    added = map(str, plain_backend(tokenizer).get_added_tokens_decoder().values())
    texts = [*HARD_TEXTS, *(f"{token} a{token}b {token.upper()}{token.lower()} {token}, {token}" for token in added)]
    expected = own_encoder(tokenizer, with_words)(texts)
    return faster if same_ids(texts, expected, faster, "test") else None


def nanotoken_encoder(tokenizer: PreTrainedTokenizerBase, with_words: bool) -> Encoder:
    flag, name = "--tokenizer_backend nanotoken", type(tokenizer).__name__
    if with_words:
        raise UserError(f"{flag} does not say where words begin, as --whole_word_mask needs it: drop one of the two")
    kind = type(tokenizer.backend_tokenizer.model).__name__ if tokenizer.is_fast else "slow"
    if kind != "WordPiece":
        raise UserError(f"{flag} is for fast WordPiece tokenizers, {name} is none ({kind}): drop the flag")
    try:
        import nanotoken
    except ImportError as error:
        raise UserError(f"{flag}: {error}: pip install nanotoken, or drop the flag") from None
    try:
        faster = nanotoken.Tokenizer.from_json(plain_backend(tokenizer).to_str())
    except ValueError as error:
        raise UserError(f"{flag} cannot be {name} ({str(error)[:200]}): drop the flag") from None
    nanotoken.set_cache_entries(REMEMBERED)
    return partial(encode_nanotoken, tokenizer=faster)


def encode_nanotoken(texts: list[str], tokenizer) -> Encoded:
    rows = tokenizer.encode_batch(texts, add_special_tokens=False)
    return Encoded(rows.ids, None, np.diff(rows.offsets))


def same_ids(texts: list[str], expected: Encoded, faster: Encoder, kind: str) -> bool:
    """Whether the faster encoder gives what is expected of these texts; else a warning names the first that differs."""
    found = faster(texts)
    if np.array_equal(found.ids, expected.ids) and np.array_equal(found.lengths, expected.lengths):
        return True
    rows = zip(texts, expected.texts(), found.texts(), strict=True)
    number, text = next((n, text) for n, (text, (a, _), (b, _)) in enumerate(rows, 1) if not np.array_equal(a, b))
    logger.warning(
        "TOKENIZER: nanotoken gives other ids than the tokenizer itself for %s %d, %r: it is not used",
        kind,
        number,
        text[:60],
    )
    return False
