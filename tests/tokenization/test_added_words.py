"""A tokenizer with added words: the words are tokens, all else is tokenized as before, also after saving."""

import copy
import json
from itertools import chain

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, XLMRobertaTokenizer

from cloze.config.arguments import ModelArguments
from cloze.tokenization.added_words import add_words, save_words
from cloze.tokenization.domain_words import choose_words, count_words
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.properties import required_vocab_size

TOKENS = {
    "wordpiece": ["tidepools", "remdesivir"],
    "byte_level": ["Ġtidepools", "Ġremdesivir"],
    "unigram": ["▁tidepools", "▁remdesivir"],
}
TOKENS["xlm-roberta"] = TOKENS["unigram"]
KINDS = tuple(TOKENS)
TEXT = "The tidepools, and remdesivir-like\n\ntidepools  (remdesivir) in <mask> tidepool [MASK] Tidepools."
ADDED = ["[unused0]", "snowman"]


@pytest.fixture
def own(tokenizers):
    """``own(kind)`` is a copy, of xlm-roberta's with the vocabulary of another Unigram."""

    def make(kind):
        if kind != "xlm-roberta":
            return copy.deepcopy(tokenizers[kind])
        pieces = [token for token in sorted(tokenizers["unigram"].get_vocab()) if not token.startswith("[")]
        special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        scored = [(piece, -6.0 - number / 1000) for number, piece in enumerate(pieces)]
        return XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)])

    return make


def ids_of(tokenizer, texts):
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def pieces_restored(ids, tokenizer, extended):
    """Replace the ids of new words by those of their pieces."""
    model, end = tokenizer.backend_tokenizer.model, required_vocab_size(tokenizer)
    tokens = zip(ids, extended.convert_ids_to_tokens(ids), strict=True)
    pieces = ([piece.id for piece in model.tokenize(token)] if number >= end else [number] for number, token in tokens)
    return list(chain.from_iterable(pieces))


@pytest.mark.parametrize("added", [[], ADDED], ids=["", "with-added-tokens"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_words_are_tokens_and_all_else_is_as_before(kind, added, own, texts):
    tokenizer = own(kind)
    tokenizer.add_tokens(added)
    extended = add_words(tokenizer, TOKENS[kind])
    end = required_vocab_size(tokenizer)
    assert [extended.get_vocab()[token] for token in TOKENS[kind]] == [end, end + 1]
    assert {token: extended.get_vocab()[token] for token in tokenizer.get_vocab()} == tokenizer.get_vocab()
    everything = [*texts[:300], TEXT, "snowman [unused0] tidepools"]
    before, after = ids_of(tokenizer, everything), ids_of(extended, everything)
    assert after != before
    assert [pieces_restored(ids, tokenizer, extended) for ids in after] == before
    assert extended("a tidepools", add_special_tokens=False)["input_ids"][-1] == end
    assert tokenizer.get_vocab().keys().isdisjoint(TOKENS[kind]), "the original is unchanged"


@pytest.mark.parametrize("added", [[], ADDED], ids=["", "with-added-tokens"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_tokenizer_gives_the_same_ids(kind, added, own, texts, tmp_path):
    tokenizer = own(kind)
    tokenizer.add_tokens(added)
    tokenizer.model_max_length = 77
    extended = add_words(tokenizer, TOKENS[kind])
    save_words(extended, tmp_path)
    everything = [*texts, TEXT, "snowman [unused0] tidepools"]
    expected = extended(everything)["input_ids"]
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path),
        load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path)), None),
    ):
        assert loaded(everything)["input_ids"] == expected
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert (loaded.model_max_length, loaded.model_input_names) == (77, tokenizer.model_input_names)
        assert len(loaded) == len(tokenizer) + 2
    if kind == "wordpiece":
        assert type(loaded) is type(tokenizer), "the class with do_lower_case"


def test_only_the_whole_word_changes_in_byte_level(tokenizers):
    extended = add_words(tokenizers["byte_level"], ["Ġtidepool"])
    text = ["The tidepools,", "tidepool", "(tidepool)", "a Tidepool"]
    assert ids_of(extended, text) == ids_of(tokenizers["byte_level"], text)
    assert extended(" tidepool", add_special_tokens=False)["input_ids"] == [500]


def test_words_that_begin_with_a_new_word_change_in_wordpiece(tokenizers):
    extended = add_words(tokenizers["wordpiece"], ["tidepool"])
    tokens = extended.convert_ids_to_tokens(ids_of(extended, ["Tidepools"])[0])
    assert tokens == ["tidepool", "##s"]


def test_words_that_begin_with_the_pieces_of_a_new_word_change_in_unigram(own):
    tokenizer = own("xlm-roberta")
    extended = add_words(tokenizer, ["▁tidepool"])
    tokens = extended.convert_ids_to_tokens(ids_of(extended, ["tidepools"])[0])
    assert tokens == ["▁tidepool", "s"]


def test_words_that_begin_otherwise_stay_in_unigram():
    """The new word is hardly more likely than its pieces together."""
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    scored = [("\u2581", -5.0), ("\u2581a", -4.0), ("b", -5.0), ("c", -5.0), ("d", -5.0), ("bc", -6.0), ("xyz", -99.0)]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)])
    extended = add_words(tokenizer, ["\u2581ab"])
    rows = {word: extended.convert_ids_to_tokens(ids_of(extended, [word])[0]) for word in ("ab", "abd", "abc")}
    assert rows == {"ab": ["\u2581ab"], "abd": ["\u2581ab", "d"], "abc": ["\u2581a", "bc"]}
    word, score = vocabulary_of(extended)[-1]
    assert word == "\u2581ab"
    assert -9 < score < -8.999


def test_unknown_characters_keep_their_penalty_in_unigram(own, texts):
    """It is relative to the lowest score, below which the sum of a long word's pieces is."""
    tokenizer = own("xlm-roberta")
    extended = add_words(tokenizer, ["▁" + "tidepools" * 3])
    lowest = [min(score for _, score in vocabulary_of(each)) for each in (tokenizer, extended)]
    assert lowest[0] == lowest[1]
    unknown = [f"{text[:20]}\u2603\u2604{text[20:]}" for text in texts[:100]]
    assert ids_of(extended, unknown) == ids_of(tokenizer, unknown)


def vocabulary_of(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]


def test_the_tokens_saved_in_byte_level_are_those_counted(tokenizers, texts):
    """No word interferes with another."""
    tokenizer = tokenizers["byte_level"]
    model = tokenizer.backend_tokenizer.model
    words = choose_words(count_words(texts, tokenizer.backend_tokenizer), tokenizer.backend_tokenizer, 100)
    saved = sum(word.frequency * (len(model.tokenize(word.token)) - 1) for word in words)
    extended = add_words(tokenizer, [word.token for word in words])
    before, after = (sum(map(len, ids_of(each, texts))) for each in (tokenizer, extended))
    assert len(words) == 100
    assert before - after == saved > 0


def test_tokens_that_no_merges_lead_to_are_reported(tokenizers, caplog):
    settings = json.loads(tokenizers["byte_level"].backend_tokenizer.to_str())
    settings["model"]["vocab"] |= {"Ġtidepools": 500, "Ġa-b": 501}
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.backend_tokenizer.model = Tokenizer.from_str(json.dumps(settings)).model
    add_words(tokenizer, ["Ġremdesivir"])
    assert "1 words of the tokenizer's vocabulary, such as Ġtidepools, were never tokens" in caplog.text
    caplog.clear()
    add_words(tokenizers["byte_level"], ["Ġremdesivir"])
    assert not caplog.text
