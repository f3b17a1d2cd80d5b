"""Count the characters and the bytes that each token stands for, to compare losses across tokenizers."""

import json
import re
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cloze.tokenization.properties import plain_backend, required_vocab_size

# The space before a word in SentencePiece's vocabularies.
SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
# A token of one byte, for characters that are not in the vocabulary.
BYTE = re.compile("<0x([0-9A-F]{2})>")
ASCII_SPACE = b" \t\n\r\v\f"


def characters_of(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the number of characters other than white space in each token, int64 [vocabulary].

    The numbers of a text's tokens add up to the characters of the normalized text, however it is cut. A byte of a
    character counts 1 if the character begins with it, else 0.
    """
    return _count(tokenizer, _count_begins, _count_visible)


def bytes_of(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the number of bytes of UTF-8 in each token, white space included, int64 [vocabulary].

    For byte-level BPE, the numbers of a text's tokens add up to the bytes of the text. All are 0 if the tokenizer drops
    white space, as WordPiece does.
    """
    counts = _count(tokenizer, len, lambda text: len(text.encode()))
    visible = _count(
        tokenizer,
        lambda values: len(values.translate(None, ASCII_SPACE)),
        lambda text: len("".join(text.split()).encode()),
    )
    return np.zeros_like(counts) if (counts == visible).all() else counts


def _count(
    tokenizer: PreTrainedTokenizerBase, count_bytes: Callable[[bytes], int], count_text: Callable[[str], int]
) -> np.ndarray:
    """Return the counts of each token, which is bytes or text, int64 [vocabulary]."""
    counts = np.zeros(required_vocab_size(tokenizer), dtype=np.int64)
    marks = _marks_of(tokenizer)
    byte_level = {character: byte for byte, character in bytes_to_unicode().items()}
    byte_values = byte_level if _is_byte_level(tokenizer) else {}
    for token, number in tokenizer.get_vocab().items():
        if byte_values.keys() >= set(token):
            counts[number] = count_bytes(bytes(byte_values[character] for character in token))
        elif match := BYTE.fullmatch(token):
            counts[number] = count_bytes(bytes.fromhex(match[1]))
        else:
            counts[number] = count_text(_without(token, marks))
    # Added tokens are in the text as they are.
    for number, added in tokenizer.added_tokens_decoder.items():
        counts[number] = count_text(added.content)
    return counts


def _marks_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return what tokens inside words begin with, such as ##, and what tokens at the end of words end with."""
    if not tokenizer.is_fast:
        return "##", "</w>"
    model = plain_backend(tokenizer).model
    marks = (getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    inside, end = (mark or "" for mark in marks)
    return inside, end


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether each character of a token stands for a byte, as in GPT-2's vocabulary."""
    if not tokenizer.is_fast:
        return False
    settings = json.loads(plain_backend(tokenizer).to_str())
    return any('"ByteLevel"' in json.dumps(settings[part]) for part in ("pre_tokenizer", "decoder"))


def _without(token: str, marks: tuple[str, str]) -> str:
    inside, end = marks
    return token.removeprefix(inside).removesuffix(end).replace(SPACE_MARK, " ")


def _count_visible(text: str) -> int:
    """Count the characters other than white space."""
    return sum(not character.isspace() for character in text)


def _count_begins(values: bytes) -> int:
    """Count the bytes that begin a character, by UTF-8, other than white space."""
    return sum(byte & 0xC0 != 0x80 and byte not in ASCII_SPACE for byte in values)
