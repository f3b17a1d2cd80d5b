"""Extend a checkpoint's tokenizer by words of the training text or of a file, and report what they save."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus, read_documents
from cloze.text.decoding import read_lines
from cloze.tokenization.added_words import add_words, save_words
from cloze.tokenization.coverage import first_characters
from cloze.tokenization.domain_words import (
    BYTE_LEVEL_SPACE,
    MIN_COUNT,
    check_extensible,
    choose_words,
    count_words,
    split_words,
)
from cloze.tokenization.encoding import chunk_documents, own_encoder
from cloze.tokenization.properties import fingerprint, hash_of

logger = logging.getLogger(__name__)

# Increased when the choice of words changes, to invalidate cached tokenizers.
VERSION = 1
# Words to log.
MAX_LOGGED = 10
# File of the report, beside the tokenizer in the cache.
REPORT = "words.json"


class Extension(NamedTuple):
    """Hold what was added to a tokenizer.

    Attributes:
        words: the new tokens, each with its count in the text.
        characters: length of the text in which words were counted.
        before: tokens of that text with the checkpoint's tokenizer.
        after: tokens of that text with the new words.
    """

    words: list[tuple[str, int]]
    characters: int
    before: int
    after: int


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    corpora: Sequence[Corpus],
    number: int | None,
    word_list: str | None,
    limit: int,
    cache: Path,
    overwrite: bool,
) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with new words, or load it from the cache if text and settings are the same.

    Args:
        tokenizer: the checkpoint's tokenizer.
        corpora: the training text, one source after another.
        number: of words to add from the text, beyond the listed ones; None for none.
        word_list: path of a file of words to add, one per line, or None.
        limit: characters at the beginning of the text in which words are counted.
        cache: folder for the extended tokenizer.
        overwrite: count words again even if the tokenizer is in the cache.

    Raises:
        UserError: for a tokenizer that cannot be extended, a bad list, and if there are no words to add.
    """
    check_extensible(tokenizer, "--add_vocabulary" if number else "--vocabulary_file")
    listed = read_word_list(word_list, tokenizer, required=not number) if word_list else []
    settings = [type(tokenizer).__name__, fingerprint(tokenizer), tokenizer.init_kwargs, number, listed, limit]
    path = cache / f"tokenizer-{hash_of([VERSION, *settings, [corpus.identity for corpus in corpora]])}"
    write = partial(_write, tokenizer=tokenizer, corpora=corpora, number=number, listed=listed, limit=limit)
    # A file of JSON takes some dozens of bytes per token.
    size = 50 * len(tokenizer)
    extended, extension = find_or_write(path, write, _read, name="extended tokenizer", size=size, overwrite=overwrite)
    extended.name_or_path = tokenizer.name_or_path
    first = "first " * (extension.characters >= limit)
    text = f"the {first}{extension.characters:,} characters of {' and '.join(corpus.name for corpus in corpora)}"
    log_extension(extension, number, text, extended)
    return extended


def _write(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Sequence[Corpus],
    number: int | None,
    listed: Sequence[str],
    limit: int,
) -> None:
    """Extend the tokenizer and write it with a report; see ``extend_tokenizer``."""
    backend = tokenizer.backend_tokenizer
    counts = count_words(_read_texts(corpora, limit), backend)
    words = [(word, counts.pop(word, 0)) for word in [*listed, *_forms_without_space(listed, counts, backend)]]
    words += choose_words(counts, backend, number or 0)
    if not words:
        raise UserError(
            f"--add_vocabulary {number}: no word of {corpora[0].name} occurs {MIN_COUNT} times and has several tokens: "
            "drop the flag, or give more text"
        )
    extended = add_words(tokenizer, [word for word, _ in words])
    lengths = measure(_read_texts(corpora, limit), [tokenizer, extended])
    save_words(extended, folder)
    (folder / REPORT).write_text(json.dumps(Extension(words, *lengths)), encoding="utf-8")


def _forms_without_space(words: Sequence[str], counts: Mapping[str, int], backend: Tokenizer) -> list[str]:
    """Return the tokens of words of byte-level BPE at the beginning of a line or after a bracket, if frequent."""
    forms = [word[1:] for word in words if word[0] == BYTE_LEVEL_SPACE]
    return [form for form in forms if counts.get(form, 0) >= MIN_COUNT and backend.token_to_id(form) is None]


def _read_texts(corpora: Sequence[Corpus], limit: int) -> Iterator[str]:
    """Yield the documents with the first ``limit`` characters of the corpora."""
    return map("\n".join, first_characters(chain.from_iterable(map(read_documents, corpora)), limit))


def _read(folder: Path) -> tuple[PreTrainedTokenizerBase, Extension]:
    """Read a tokenizer and its report."""
    return AutoTokenizer.from_pretrained(folder), Extension(*json.loads((folder / REPORT).read_text(encoding="utf-8")))


def measure(texts: Iterable[str], tokenizers: Sequence[PreTrainedTokenizerBase]) -> list[int]:
    """Return the number of characters of texts, and the number of tokens with each tokenizer."""
    encoders = [own_encoder(tokenizer, with_words=False) for tokenizer in tokenizers]
    totals = [0] * (1 + len(encoders))
    for batch, _ in chunk_documents([text] for text in texts):
        totals[0] += sum(map(len, batch))
        for position, encoder in enumerate(encoders, 1):
            totals[position] += int(encoder(batch).lengths.sum())
    return totals


def log_extension(extension: Extension, number: int | None, text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log the first new words with their counts in ``text``, and the tokens of it that all of them save."""
    words = extension.words
    first = ", ".join(
        # Tokens of byte-level BPE are unreadable outside ASCII. Only words of letters are counted.
        tokenizer.convert_tokens_to_string([token]).strip() + f" ({count:,})" * (count > 0)
        for token, count in words[:MAX_LOGGED]
    )
    logger.info(
        "Domain words: %s added to the tokenizer, with their counts in %s: %s%s",
        f"{len(words):,}",
        text,
        first,
        ", ..." * (len(words) > MAX_LOGGED),
    )
    if number and len(words) < number:
        logger.info("No other word of the text occurs %d times and has several tokens", MIN_COUNT)
    saved = extension.before - extension.after
    logger.info(
        "Tokens saved: %s of %s, %.1f %% of that text",
        f"{saved:,}",
        f"{extension.before:,}",
        100 * saved / max(1, extension.before),
    )


def read_word_list(path: str, tokenizer: PreTrainedTokenizerBase, required: bool) -> list[str]:
    """Return the new words of a file, one a line, as they would be in the vocabulary.

    Words in the vocabulary, repeated words, and words that the tokenizer splits in any vocabulary are skipped.

    Args:
        path: of the file.
        tokenizer: to extend.
        required: whether a file without new words is an error.

    Raises:
        UserError: for a file that is missing, unreadable, or empty, and a line of several words.
    """
    flag = f"--vocabulary_file {path}"
    if not Path(path).is_file():
        raise UserError(f"{flag} is not a file: give a text file with one word per line")
    backend: Tokenizer = tokenizer.backend_tokenizer
    words: dict[str, None] = {}
    num_known, split = 0, []
    for number, line in enumerate(read_lines(Path(path), ReaderSettings()), 1):
        parts = line.split()
        if len(parts) > 1:
            raise UserError(f"{flag}, line {number}: {line.strip()[:60]!r} is more than one word: give one per line")
        for word in parts:
            # After a space, as most words in a text are.
            tokens = split_words(f" {word}", backend)
            if len(tokens) != 1:
                split.append(word)
            elif tokens[0] in words or backend.token_to_id(tokens[0]) is not None:
                num_known += 1
            else:
                words[tokens[0]] = None
    if not (words or num_known or split):
        raise UserError(f"{flag} is empty: give one word per line")
    if not words and required:
        raise UserError(f"{flag} has no new word: all are tokens already, or contain punctuation: drop the flag")
    if num_known:
        logger.info("%s: skipped %s words that are tokens already", flag, f"{num_known:,}")
    if split:
        logger.warning(
            "%s: skipped %s words, such as %s, that the tokenizer splits before it looks for tokens: list their parts",
            flag,
            f"{len(split):,}",
            split[0],
        )
    return list(words)
