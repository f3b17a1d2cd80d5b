"""Test which hidden words are guessed, and how the guesses are shown."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from cloze.inference.guesses import CONTEXT, WordGuess, guess_words, is_word, words_to_hide


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_samples_hide_whole_words_only(kind, tokenizers):
    tokenizer = tokenizers[kind]
    text = "The light that comes from distant stars is unquestionably old, and with it wanders."
    ids = np.array(tokenizer(text)["input_ids"])
    words = [
        tokenizer.decode(ids[place : place + 1]).strip() for place in range(len(ids)) if is_word(tokenizer, ids, place)
    ]
    assert {"that", "with"} <= set(words)
    assert set(map(str.lower, words)) < set(text.lower().replace(",", "").replace(".", "").split())
    assert all(len(word) > 3 for word in words)


@pytest.fixture
def light_model(checkpoint, tokenizers):
    """A model that takes every hidden word for "light"."""
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    with torch.no_grad():
        model.cls.predictions.bias[int(tokenizers["wordpiece"].convert_tokens_to_ids("light"))] = 100.0
    return model


def encode_samples(tokenizer, *texts):
    return [{"input_ids": np.array(tokenizer(text)["input_ids"])} for text in texts]


LIGHT_TEXTS = ("light of the moon", "the light of the sun", "from the moon", "from the", "with it", "with that it is")


def test_guesses_are_parted_into_right_and_wrong(light_model, tokenizers):
    """Each word once, though "light" and "moon" are in two texts."""
    tokenizer = tokenizers["wordpiece"]
    right, wrong = guess_words(light_model, tokenizer, encode_samples(tokenizer, *LIGHT_TEXTS), 3, 2)
    assert [line.split("\n")[0] for line in right] == ["[MASK] of the moon"]
    assert right[0].split("\n")[1].startswith("    light 100%, ")
    assert right[0].endswith("   (the text has: light)")
    assert [line.rpartition(": ")[2] for line in wrong] == ["from)", "with)"]
    assert all(line.count("[MASK]") == 1 and "    light 100%, " in line for line in wrong)


def test_guesses_without_a_right_one_are_mistakes(light_model, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    texts = ("the moon", "from it", "with it", "that is", "this is", "they are", "which of")
    right, wrong = guess_words(light_model, tokenizer, encode_samples(tokenizer, *texts), 3, 2)
    assert right == []
    assert len(wrong) == 5


def test_guesses_come_from_the_surest(checkpoint, tokenizers):
    """The same as by hand, one text at a time."""
    tokenizer = tokenizers["wordpiece"]
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert")).eval()
    texts = ("the moon", "from it", "with it", "that is", "this is", "they are", "which of")
    _, wrong = guess_words(model, tokenizer, encode_samples(tokenizer, *texts), 3, 2)
    chances = {}
    for example in encode_samples(tokenizer, *texts):
        ids = torch.tensor(example["input_ids"])
        place = next(place for place in range(1, len(ids) - 1) if is_word(tokenizer, ids.numpy(), place))
        truth, ids[place] = tokenizer.decode(ids[place]), tokenizer.mask_token_id
        best = model(input_ids=ids[None]).logits[0, place].softmax(-1).max(-1)
        if tokenizer.decode(best.indices).isalpha():
            chances[truth] = best.values.item()
    expected = sorted(chances, key=lambda truth: -chances[truth])[:5]
    assert [line.rpartition(": ")[2][:-1] for line in wrong] == expected


def test_guesses_prefer_words_to_punctuation(checkpoint, tokenizers):
    """If two guesses are wrong, the more confident one is shown only if neither is a word."""
    tokenizer = tokenizers["wordpiece"]
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    with torch.no_grad():
        model.cls.predictions.bias[int(tokenizer.convert_tokens_to_ids("."))] = 100.0
    _, wrong = guess_words(model, tokenizer, encode_samples(tokenizer, "the moon"), 3, 2)
    assert ". 100%" in wrong[0]


def test_hidden_words_are_rare_and_stand_apart(tokenizers):
    """They are so far apart that the context of one contains no other hidden word."""
    tokenizer = tokenizers["wordpiece"]
    examples = encode_samples(tokenizer, *["from light with light light " * 10] * 2, "moon light " * 20)
    rare = {tokenizer.convert_tokens_to_ids(word) for word in ("moon", "from", "with")}
    for example, positions in zip(examples, words_to_hide(tokenizer, examples), strict=True):
        ids = example["input_ids"]
        assert len(positions) >= 3
        assert min(np.diff(positions)) > CONTEXT
        assert all(is_word(tokenizer, ids, position) for position in positions)
        assert set(ids[positions]) <= rare, "never light, which is more than half of the words"


def test_examples_without_words_hide_none(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    assert words_to_hide(tokenizer, encode_samples(tokenizer, ". .", ",")) == [[], []]


def test_long_context_is_cut_at_words(light_model, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = encode_samples(tokenizer, "moon " * 10 + "unquestionably from the light " + "moon " * 20)
    right, wrong = guess_words(light_model, tokenizer, examples, 3, 2)
    contexts = [line.split("\n")[0] for line in right + wrong]
    assert any(text.startswith("... ") for text in contexts)
    assert all(text.endswith(" ...") for text in contexts[:1])
    assert not any(text.startswith("... ##") for text in contexts)


def test_context_is_of_one_document(light_model, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    (example,) = encode_samples(tokenizer, "moon moon [SEP] the light of it [SEP] moon moon")
    right, _ = guess_words(light_model, tokenizer, [example], 3, 2)
    assert [line.split("\n")[0] for line in right] == ["the [MASK] of it"]


def test_a_context_cut_within_a_character_shows_no_replacement_character(tokenizers):
    tokenizer = tokenizers["byte_level"]
    ids = np.array(tokenizer("sun 海 and the moon")["input_ids"])
    # One byte of the character is missing at the end.
    ids = ids[: next(n for n in range(2, len(ids)) if tokenizer.decode(ids[:n]).endswith("\ufffd"))]
    hidden = ids.copy()
    hidden[1] = tokenizer.mask_token_id
    assert "\ufffd" not in WordGuess.of(tokenizer, ids, hidden, 1, [int(ids[1])] * 3, [0.5, 0.3, 0.1]).text
