"""Test that the characters and bytes of tokens add up to the text's totals, for every tokenizer."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from cloze.tokenization.characters import SPACE_MARK, bytes_of, characters_of
from cloze.tokenization.properties import plain_backend

HARD = "na\u00efve \u6f22\u5b57 \u0e44\u0e17\u0e22 \U0001f991 x\n\ny"


def count_visible(text):
    return len("".join(text.split()))


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_characters_of_tokens_add_up_to_the_text(kind, tokenizers, texts):
    tokenizer = tokenizers[kind]
    backend, characters = plain_backend(tokenizer), characters_of(tokenizer)
    assert (characters.dtype, characters.shape) == (np.int64, (500,))
    for text in texts[:300] + [HARD] * (kind == "byte_level"):
        ids = backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.unk_token_id not in ids
        normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
        assert characters[ids].sum() == count_visible(normalized.replace(SPACE_MARK, "")), text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wordpiece", {"the": 3, "##ing": 3, "##s": 1, ".": 1}),
        ("byte_level", {"\u0120the": 3, "\u0120": 0, "\u010a": 0, "\u00c3": 1, "\u00a9": 0, "\u0142": 0}),
        ("unigram", {f"{SPACE_MARK}the": 3, SPACE_MARK: 0, "s": 1}),
    ],
)
def test_characters_of_single_tokens(kind, expected, tokenizers):
    tokenizer = tokenizers[kind]
    characters = characters_of(tokenizer)
    assert {token: characters[tokenizer.convert_tokens_to_ids(token)] for token in expected} == expected


@pytest.mark.parametrize("kind", ["byte_level", "gpt2"])
def test_bytes_of_tokens_add_up_to_the_text(kind, tokenizers, texts):
    tokenizer = tokenizers[kind]
    sizes = bytes_of(tokenizer)
    for text in [*texts[:100], HARD, "a\t  b \n"]:
        ids = plain_backend(tokenizer).encode(text, add_special_tokens=False).ids
        assert sizes[ids].sum() == len(text.encode()), text


def test_bytes_of_unigram_tokens_include_the_space_before_a_word(tokenizers):
    tokenizer = tokenizers["unigram"]
    ids = tokenizer.convert_tokens_to_ids([f"{SPACE_MARK}the", SPACE_MARK, "s"])
    assert bytes_of(tokenizer)[ids].tolist() == [4, 1, 1]


def test_tokens_without_white_space_have_no_bytes(tokenizers):
    """Bits per byte of WordPiece would leave out the spaces of the text."""
    assert not bytes_of(tokenizers["wordpiece"]).any()


def test_fallback_bytes_count_where_a_character_begins():
    tokens = ["<unk>", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        {token: number for number, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
    ids = tokenizer("a\u6f22 \n\U0001f991", add_special_tokens=False)["input_ids"]
    assert len(ids) == 1 + 3 + 2 + 4
    assert characters_of(tokenizer)[ids].sum() == 3


def test_marks_of_bpe_do_not_count():
    vocabulary = {"a": 0, "@@b": 1, "@@b</w>": 2, "ab": 3, "@@c</w>": 4}
    model = models.BPE(vocabulary, [], continuing_subword_prefix="@@", end_of_word_suffix="</w>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    assert characters_of(tokenizer).tolist() == [1, 1, 1, 2, 1]


def test_added_tokens_count_as_their_text():
    """Written in the byte alphabet, the second would be five bytes that begin no character."""
    tokenizer = RobertaTokenizer()
    tokenizer.add_tokens([AddedToken("na\u00efve law"), AddedToken("\u0142\u0142\u0142")])
    ids = tokenizer.convert_tokens_to_ids(["na\u00efve law", "\u0142\u0142\u0142"])
    assert characters_of(tokenizer)[ids].tolist() == [8, 3]


def test_slow_tokenizers_have_characters():
    tokenizer = ByT5Tokenizer()
    ids = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert characters_of(tokenizer)[ids].tolist() == [1, 0, 1]


def test_byte_level_is_found_within_a_sequence():
    backend = Tokenizer(models.BPE({"\u0120": 0, "\u0142": 1}, []))
    steps = [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert characters_of(PreTrainedTokenizerFast(tokenizer_object=backend)).tolist() == [0, 0]
