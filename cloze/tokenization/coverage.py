"""Measure how many tokens two tokenizers need for a text."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from transformers import PreTrainedTokenizerBase

from cloze.tokenization.encoding import encode, take_characters

# Characters of the text that are encoded with each tokenizer.
MEASURED_CHARS = 1_000_000


def describe_lengths(
    documents: Iterable[Sequence[str]], old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> str:
    """Return the tokens per word and per character with two tokenizers, at the beginning of a text.

    Words are separated by white space. Special tokens around an example are not counted.
    """
    sample = list(first_characters(documents, MEASURED_CHARS))
    texts = list(chain.from_iterable(sample))
    words = sum(len(text.split()) for text in texts)
    characters = sum(map(len, texts))
    before, after = (count_tokens(sample, tokenizer) for tokenizer in (old, new))
    return (
        f"{before / max(1, words):.2f} -> {after / max(1, words):.2f} tokens per word, "
        f"{before / max(1, characters):.3f} -> {after / max(1, characters):.3f} per character"
    )


def count_tokens(documents: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens of a text, without special tokens."""
    return sum(len(ids) for units in encode(documents, tokenizer, with_words=False) for ids, _ in units)


def first_characters(documents: Iterable[Sequence[str]], limit: int) -> Iterator[list[str]]:
    """Yield the documents with the first ``limit`` characters of a text, the last one truncated."""
    for document in documents:
        yield take_characters(list(document), limit)
        limit -= sum(map(len, document))
        if limit <= 0:
            return
