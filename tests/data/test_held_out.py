"""Test the documents and words of evaluation examples, and that the same words are masked whatever cuts them."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import RobertaTokenizer

from cloze.config.data_arguments import DataTrainingArguments, PretrainingDataArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.builders import Split
from cloze.data.collators import IGNORED, MaskingCollator
from cloze.data.held_out import HeldOutExamples, WordNumbers, draws_of
from cloze.data.nsp import PairBuilder
from cloze.tokenization.characters import characters_of
from cloze.tokenization.encoding import own_encoder
from cloze.tokenization.token_cache import TokenizedCorpus, tokenize

DOCUMENTS = [["The tides rise.", "They fall  again."], ["\u2014"], ["Moons, and other moons:", "all of them pull."]] * 4


def corpus_of(tokenizer, documents, granularity="document"):
    return tokenize(documents, granularity, own_encoder(tokenizer, True))


def held_out(tokenizer, documents, length, builder=None, documents_chosen=None):
    """Return the examples of an evaluation on whole words."""
    builder = builder or BlockBuilder(tokenizer, length, DataTrainingArguments())
    corpus = corpus_of(tokenizer, documents, builder.granularity)
    examples = builder.build(Split("text", corpus, documents_chosen), None)
    return HeldOutExamples(examples, corpus, WordNumbers(corpus, characters_of(tokenizer)))


def of_roberta(texts, vocab_size, tokens=()):
    tokenizer = RobertaTokenizer().train_new_from_iterator([texts], vocab_size=vocab_size)
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def masked_words(tokenizer, examples, **settings):
    """Return the number of each masked word, with how many of its tokens are masked, unchanged or replaced."""
    collator = MaskingCollator(tokenizer, eval_whole_words=True, **settings)
    found = {}
    for example in examples:
        batch = collator([example])
        length = len(example["input_ids"])
        labels, ids = batch["labels"][0, :length].numpy(), batch["input_ids"][0, :length].numpy()
        for place in np.flatnonzero(labels != IGNORED):
            kind = "mask" if ids[place] == tokenizer.mask_token_id else "other"
            found.setdefault(int(example["words"][place]), []).append(kind)
    return found


# Documents


def test_parts_of_blocks_are_the_documents_of_their_tokens():
    """Documents of 2, 0, 4 and 1 tokens, in blocks of 3: the second is empty, the last one not chosen."""
    corpus = TokenizedCorpus(np.arange(10, 17), None, np.array([0, 2, 2, 6, 7]), np.arange(5), 4)

    class Blocks:
        lengths = np.array([5, 5])

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return {"input_ids": np.zeros(5, np.int64), "example": number}

        def positions(self, number):
            return np.array([[-1, 0, 1, -1, -1], [-1, 1, 2, 5, -1]][number])

    examples = HeldOutExamples(Blocks(), corpus)
    parts = [(examples[number]["documents"].tolist(), examples[number]["document_ends"].tolist()) for number in (0, 1)]
    assert parts == [([0], [3]), ([0, 2], [2, 4])]
    assert "words" not in examples[0]


@pytest.mark.parametrize("line_by_line", [False, True])
def test_every_token_belongs_to_its_document(line_by_line, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    builder = BlockBuilder(tokenizer, 12, DataTrainingArguments(line_by_line=line_by_line))
    examples = held_out(tokenizer, DOCUMENTS, 12, builder, np.array([0, 2, 3, 5]))
    found = {}
    for example in examples:
        begin = 1
        for document, end in zip(example["documents"], example["document_ends"], strict=True):
            ids = [number for number in example["input_ids"][begin:end] if number != tokenizer.sep_token_id]
            found.setdefault(int(document), []).extend(ids)
            begin = end
    texts = {number: "\n".join(DOCUMENTS[number]) for number in (0, 2, 3, 5)}
    assert found == {number: tokenizer(text, add_special_tokens=False)["input_ids"] for number, text in texts.items()}


def test_a_pair_belongs_to_the_document_of_its_first_text(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    builder = PairBuilder(tokenizer, 32, PretrainingDataArguments(sentence_per_line=True), 0)
    examples = held_out(tokenizer, DOCUMENTS, 32, builder)
    for number, example in enumerate(examples):
        begin = examples.examples.spans[number, 0]
        unit = np.flatnonzero(examples.corpus.units <= begin)[-1]
        assert example["documents"].tolist() == [np.flatnonzero(examples.corpus.documents <= unit)[-1]]
        assert example["document_ends"].tolist() == [len(example["input_ids"]) - 1]
        assert example["words"].tolist().count(-1) == 3


# Words


def test_words_are_numbered_within_their_document(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    (example,) = held_out(tokenizer, [["moonlight is"], ["light, light"]], 64)
    tokens = tokenizer.convert_ids_to_tokens(example["input_ids"])
    starts = [place for place, token in enumerate(tokens) if not token.startswith("##")]
    assert tokens[starts[3]] == "[SEP]"
    numbers = [-1, 0, 1, -1, 2**32, 2**32 + 1, 2**32 + 2, -1]
    assert len(starts) == len(numbers) < len(tokens)
    for begin, end, number in zip(starts, [*starts[1:], len(tokens)], numbers, strict=True):
        assert set(example["words"][begin:end].tolist()) == {number}


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_the_same_words_are_masked_in_blocks_of_any_length(kind, tokenizers, texts):
    """Also those that are cut by the end of a block; white space alone is never masked."""
    tokenizer = tokenizers[kind]
    documents = [texts[begin : begin + 4] for begin in range(0, 200, 4)]
    first, other = (masked_words(tokenizer, held_out(tokenizer, documents, length)) for length in (11, 64))
    assert first == other
    assert len(first) > 500
    assert -1 not in first


def test_the_same_words_are_masked_whatever_the_vocabulary(texts):
    """Added tokens with or without the space before them do not move the other words."""
    documents = [texts[begin : begin + 4] for begin in range(0, 200, 4)]
    small, large = of_roberta(texts, 300), of_roberta(texts, 900)
    tokens = [AddedToken(word, single_word=True, lstrip=word == "the") for word in ("sound", "star", "the")]
    added = of_roberta(texts, 300, tokens)
    settings = {"eval_mlm_probability": 0.2}
    found = [masked_words(each, held_out(each, documents, 64), **settings) for each in (small, large, added)]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    counts = [sum(map(len, words.values())) for words in found]
    assert counts[0] > 1.2 * counts[1]
    # A word is masked as a whole or not at all, in all of them.
    for words in found:
        assert all(len(set(kinds)) == 1 for kinds in words.values())
    treatments = [{number: kinds[0] for number, kinds in words.items()} for words in found]
    assert treatments[0] == treatments[1] == treatments[2]
    characters = [masked_characters(each, documents) for each in (small, large, added)]
    assert characters[0] == characters[1] == characters[2] > 1000


def masked_characters(tokenizer, documents):
    collator = MaskingCollator(tokenizer, eval_whole_words=True)
    return sum(int(collator([example])["characters"][0]) for example in held_out(tokenizer, documents, 64))


def test_words_of_pairs_have_the_numbers_of_their_sentences(tokenizers):
    """Sentences that are cut keep the numbers of their words."""
    tokenizer = tokenizers["wordpiece"]
    pairs = {}
    for length in (16, 64):
        arguments = PretrainingDataArguments(sentence_per_line=True, pair_strategy="sentence")
        examples = held_out(tokenizer, DOCUMENTS, length, PairBuilder(tokenizer, length, arguments, 0))
        for example in examples:
            for number, word in zip(example["input_ids"].tolist(), example["words"].tolist(), strict=True):
                if word >= 0:
                    pairs.setdefault(word, set()).add(number)
    units = [line for document in DOCUMENTS for line in document]
    for word, ids in pairs.items():
        unit, rank = divmod(word, 2**32)
        encoding = tokenizer(units[unit], add_special_tokens=False)
        own = [
            number for number, place in zip(encoding["input_ids"], encoding.word_ids(), strict=True) if place == rank
        ]
        assert ids <= set(own)
    assert len(pairs) > 50


def test_draws_are_uniform_independent_and_reproducible():
    words = np.concatenate([np.arange(50_000) + unit * 2**32 for unit in (0, 1, 70_000)])
    draws = draws_of(words)
    assert np.array_equal(draws, np.concatenate([draws_of(part) for part in np.split(words, 3)], axis=1))
    assert (draws >= 0).all()
    assert (draws < 1).all()
    for begin, end in pairwise((0, 50_000, 100_000, 150_000)):
        cells, *_ = np.histogram2d(*draws[:, begin:end], bins=10, range=((0, 1), (0, 1)))
        assert abs(((cells - 500) ** 2 / 500).sum() - 99) < 5 * np.sqrt(2 * 99)
        assert abs(np.corrcoef(draws[0, begin : end - 1], draws[0, begin + 1 : end])[0, 1]) < 5 / np.sqrt(50_000)
    assert draws_of(np.array([-1]))[0] == 1
