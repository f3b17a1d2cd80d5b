"""Tokens per word and per character with two tokenizers."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cloze.tokenization.coverage import count_tokens, describe_lengths, first_characters


@pytest.fixture
def two():
    """Tokenizers of words and of characters."""
    backends = [Tokenizer(models.WordLevel({"?": 0}, unk_token="?")) for _ in range(2)]
    backends[0].pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backends[1].pre_tokenizer = pre_tokenizers.FixedLength(length=1)
    return [PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?") for backend in backends]


def test_tokens_are_counted_without_special_tokens(two):
    documents = [["one two", "six"], ["ten"]]
    assert [count_tokens(documents, tokenizer) for tokenizer in two] == [4, 13]
    assert describe_lengths(documents, *two) == "1.00 -> 3.25 tokens per word, 0.308 -> 1.000 per character"
    assert describe_lengths([], *two) == "0.00 -> 0.00 tokens per word, 0.000 -> 0.000 per character"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (100, [["one two", "six"], ["ten"]]),
        (10, [["one two", "six"]]),
        (9, [["one two", "si"]]),
        (7, [["one two"]]),
        (11, [["one two", "six"], ["t"]]),
    ],
)
def test_first_characters_truncate_only_the_last_document(limit, expected):
    assert list(first_characters(iter([["one two", "six"], ["ten"]]), limit)) == expected
