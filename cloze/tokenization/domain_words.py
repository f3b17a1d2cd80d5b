"""Find the words of a text that would save the most tokens as tokens of their own."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import NamedTuple

from tokenizers import Tokenizer, decoders
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError

# Least count of a word in the text: the weights of rarer tokens hardly train.
MIN_COUNT = 5
# What tokenizers mark the space before a word with, in byte-level BPE and in SentencePiece.
BYTE_LEVEL_SPACE, METASPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}"
# A run of characters between white space, with the space before it, which belongs to the word in byte-level BPE. Longer
# runs are cut, to bound the memory for each.
RUN = re.compile(r" ?\S{1,1000}")


class Word(NamedTuple):
    """Hold a word as it would be in the vocabulary, such as "Ġword", and its frequency in the text."""

    token: str
    frequency: int


def check_extensible(tokenizer: PreTrainedTokenizerBase, flag: str) -> None:
    """Raise UserError for a tokenizer whose vocabulary cannot get new words: slow, or of an unknown kind."""
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise UserError(f"{flag}: {name} is a slow tokenizer: use a fast one, or drop the flag")
    backend = tokenizer.backend_tokenizer
    kind = type(backend.model).__name__
    before = backend.pre_tokenizer.__getstate__().decode() if backend.pre_tokenizer else ""
    needed = {"WordPiece": before, "BPE": "ByteLevel", "Unigram": "Metaspace"}.get(kind)
    if not needed or needed not in before:
        raise UserError(
            f"{flag}: {name} ({kind}) is not WordPiece, byte-level BPE or Unigram, which can get new words: drop the "
            "flag"
        )


def find_words(text: str, backend: Tokenizer) -> Iterator[str]:
    """Yield the words of letters in a text as they would be in the vocabulary: word, Ġword or ▁word."""
    kind = type(backend.model).__name__
    for token in split_words(text, backend):
        if kind == "Unigram":
            # Punctuation is part of the split.
            word = token[1 : 1 + _count_letters(token[1:])]
            if token[0] == METASPACE and word:
                yield METASPACE + word
            continue
        word = decoders.ByteLevel().decode([token]).removeprefix(" ") if kind == "BPE" else token
        if word and _count_letters(word) == len(word):
            yield token


def split_words(text: str, backend: Tokenizer) -> list[str]:
    """Return the parts of a text that the tokenizer splits into tokens separately."""
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [token for token, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _count_letters(text: str) -> int:
    """Count the letters at the beginning of a text, with combining marks, which are vowels in Indic scripts."""
    if text.isalpha():
        return len(text)
    letters = takewhile(lambda each: each.isalpha() or unicodedata.category(each)[0] == "M", text)
    return sum(1 for _ in letters) if text[:1].isalpha() else 0


def count_words(texts: Iterable[str], backend: Tokenizer) -> Counter[str]:
    """Count the words of letters in texts, as they would be in the vocabulary."""
    runs: Counter[str] = Counter()
    for text in texts:
        runs.update(match[0] for match in RUN.finditer(text))
    words: Counter[str] = Counter()
    for run, count in runs.items():
        for word in find_words(run, backend):
            words[word] += count
    return words


def choose_words(words: Counter[str], backend: Tokenizer, number: int) -> list[Word]:
    """Return at most ``number`` new words, those that save the most tokens first.

    A word saves its count times one less than its pieces. Words with fewer than MIN_COUNT occurrences, of one piece or
    in the vocabulary are left out. Equal savings are in the order of the text.
    """
    savings = {
        word: count * (len(backend.model.tokenize(word)) - 1)
        for word, count in words.items()
        if count >= MIN_COUNT and backend.token_to_id(word) is None
    }
    best = sorted((word for word in savings if savings[word] > 0), key=lambda word: (-savings[word], word))
    return [Word(word, words[word]) for word in best[:number]]
