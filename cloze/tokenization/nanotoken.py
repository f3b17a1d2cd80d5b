"""Encode WordPiece with nanotoken, an optional, much faster backend, if its ids equal the tokenizer's."""

import logging
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.tokenization.encoding import Encoded, Encoder, own_encoder
from cloze.tokenization.properties import plain_backend

logger = logging.getLogger(__name__)

# Words that nanotoken caches per thread, in 12 MB. Its default of a million takes gigabytes on machines with many
# processors, mostly for rare words.
CACHED_WORDS = 2**15
# Texts that reveal differences between tokenizers; faster_encoder adds texts with the added tokens.
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


def faster_encoder(tokenizer: PreTrainedTokenizerBase, choice: str, with_words: bool) -> Encoder | None:
    """Return nanotoken's encoder if it gives the tokenizer's ids for HARD_TEXTS, else None.

    ``choice`` is the value of --tokenizer_backend. If nanotoken cannot be used, ``nanotoken`` raises UserError and
    ``auto`` returns None; ``tokenizers`` always returns None.
    """
    if choice == "tokenizers":
        return None
    try:
        faster = nanotoken_encoder(tokenizer, with_words)
    except UserError:
        if choice == "nanotoken":
            raise
        return None
    added = map(str, plain_backend(tokenizer).get_added_tokens_decoder().values())
    texts = [*HARD_TEXTS, *(f"{token} a{token}b {token.upper()}{token.lower()} {token}, {token}" for token in added)]
    expected = own_encoder(tokenizer, with_words)(texts)
    return faster if _gives_same_ids(texts, expected, faster, "test") else None


def choose_encoder(own: Encoder, faster: Encoder | None, sample: list[str]) -> Encoder:
    """Return the ``faster`` encoder if it gives the same ids as ``own`` for a sample of the text, else ``own``."""
    if faster is None or not _gives_same_ids(sample, own(sample), faster, "text"):
        return own
    logger.info("Tokenizing with nanotoken, whose ids equal the tokenizer's")
    return faster


def nanotoken_encoder(tokenizer: PreTrainedTokenizerBase, with_words: bool) -> Encoder:
    """Return nanotoken's encoder; raise UserError if it is not installed or does not support the tokenizer."""
    flag, name = "--tokenizer_backend nanotoken", type(tokenizer).__name__
    if with_words:
        raise UserError(
            f"{flag} does not mark where words begin, which --whole_word_mask and --eval_whole_word_mask need: drop "
            "it, or them"
        )
    kind = type(tokenizer.backend_tokenizer.model).__name__ if tokenizer.is_fast else "slow"
    if kind != "WordPiece":
        raise UserError(f"{flag} needs a fast WordPiece tokenizer, and {name} is {kind}: drop the flag")
    try:
        import nanotoken
    except ImportError as error:
        raise UserError(f"{flag}: {error}: pip install nanotoken, or drop the flag") from None
    try:
        faster = nanotoken.Tokenizer.from_json(plain_backend(tokenizer).to_str())
    except ValueError as error:
        raise UserError(f"{flag} does not support {name} ({str(error)[:200]}): drop the flag") from None
    nanotoken.set_cache_entries(CACHED_WORDS)
    return partial(_encode, tokenizer=faster)


def _encode(texts: list[str], tokenizer) -> Encoded:
    rows = tokenizer.encode_batch(texts, add_special_tokens=False)
    return Encoded(rows.ids, None, np.diff(rows.offsets))


def _gives_same_ids(texts: list[str], expected: Encoded, faster: Encoder, kind: str) -> bool:
    """Return whether an encoder gives the expected ids for the texts; warn about the first text that differs."""
    found = faster(texts)
    if np.array_equal(found.ids, expected.ids) and np.array_equal(found.lengths, expected.lengths):
        return True
    rows = zip(texts, expected.texts(), found.texts(), strict=True)
    number, text = next((n, text) for n, (text, (a, _), (b, _)) in enumerate(rows, 1) if not np.array_equal(a, b))
    logger.warning(
        "not using nanotoken: its ids differ from the tokenizer's for %s %d, %r",
        kind,
        number,
        text[:60],
    )
    return False
