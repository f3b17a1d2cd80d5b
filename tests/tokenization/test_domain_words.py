"""Which words of a text are worth a token of their own, for each kind of tokenizer."""

import copy
from collections import Counter

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from cloze.errors import UserError
from cloze.tokenization.domain_words import Word, check_extensible, choose_words, count_words, find_words

KINDS = ("wordpiece", "byte_level", "unigram")
TEXT = " Tidepools, (tidepools) x2 co-op café\nनदी"
WORDS = {
    "wordpiece": ["tidepools", "tidepools", "co", "op", "café", "नदी"],
    # GPT-2's pattern splits Hindi at vowel signs.
    "byte_level": ["ĠTidepools", "tidepools", "Ġx", "Ġco", "op", "ĠcafÃ©", "à¤¨à¤¦"],
    # Only after a space is a word a token.
    "unigram": ["▁Tidepools", "▁x", "▁co", "▁café", "▁नदी"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_letters_are_found_in_the_form_of_the_vocabulary(kind, tokenizers):
    backend = tokenizers[kind].backend_tokenizer
    assert list(find_words(TEXT, backend)) == WORDS[kind]
    assert count_words([TEXT, TEXT], backend) == Counter(WORDS[kind] * 2), "counted run by run"


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_that_save_the_most_tokens_are_chosen(kind, tokenizers):
    backend = tokenizers[kind].backend_tokenizer
    words = Counter({"tidepools": 9, "remdesivir": 8, "osimertinib": 20, "axolotl": 4, "zz": 40})
    savings = {word: count * (len(backend.model.tokenize(word)) - 1) for word, count in words.items()}
    assert savings["osimertinib"] > savings["remdesivir"] > savings["zz"] == 40
    chosen = choose_words(words, backend, 10)
    assert [savings[word.token] for word in chosen] == sorted((savings[word.token] for word in chosen), reverse=True)
    assert {word.token for word in chosen} == words.keys() - {"axolotl"}
    assert "axolotl" not in [word.token for word in chosen], "fewer than five times"
    assert choose_words(words, backend, 1) == chosen[:1] == [Word("osimertinib", 20)]
    assert choose_words(Counter({backend.id_to_token(200): 99}), backend, 10) == [], "a token already"


def test_equal_savings_are_in_the_order_of_the_text(tokenizers):
    backend = tokenizers["wordpiece"].backend_tokenizer
    chosen = choose_words(Counter(zyzx=5, zxzy=5), backend, 2)
    assert len({len(backend.model.tokenize(word)) for word in ("zyzx", "zxzy")}) == 1
    assert [word.token for word in chosen] == ["zxzy", "zyzx"]


def test_unknown_words_save_nothing(tokenizers):
    backend = tokenizers["wordpiece"].backend_tokenizer
    assert choose_words(Counter({"☃☃": 100}), backend, 2) == []


def test_tokenizers_that_cannot_be_extended_are_refused(tokenizers):
    for kind in KINDS:
        check_extensible(tokenizers[kind], "--add_vocabulary")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    with pytest.raises(UserError, match=r"--add_vocabulary: TokenizersBackend \(WordLevel\) is not WordPiece, byte-"):
        check_extensible(words, "--add_vocabulary")
    other = copy.deepcopy(tokenizers["byte_level"])
    other.backend_tokenizer.pre_tokenizer = tokenizers["unigram"].backend_tokenizer.pre_tokenizer
    with pytest.raises(UserError, match=r"RobertaTokenizer \(BPE\) is not"):
        check_extensible(other, "--add_vocabulary")
