"""Test that a mixture keeps its shares, repeats nothing before a source is used up, and depends on the epoch alone."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloze.config.data_arguments import DataTrainingArguments, PairArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.builders import Split
from cloze.data.mixture import Mixed, Mixture
from cloze.data.nsp import PairBuilder
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.tokenization.encoding import own_encoder
from cloze.tokenization.token_cache import tokenize
from tests.utils import SAMPLE


class Named:
    """Examples of these lengths, with the source, the pass and the number in the pass."""

    def __init__(self, name, number, lengths):
        self.name, self.number, self.lengths = name, number, np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, number):
        length = int(self.lengths[number])
        return {"text": (self.name, self.number, number), "input_ids": range(length), "example": number}


class Marked(Named):
    """Real examples, with the source, the pass and the number in the pass."""

    def __init__(self, name, number, examples):
        super().__init__(name, number, examples.lengths)
        self.examples = examples

    def __getitem__(self, number):
        return self.examples[number] | {"text": (self.name, self.number, number)}


def sources_of(**lengths):
    """Return sources of the same examples in each pass."""
    return {name: (lambda number, name=name: Named(name, number, lengths[name])) for name in lengths}


def texts_of(examples):
    return [examples[number]["text"] for number in range(len(examples))]


def tokens_of(examples, name):
    return sum(
        len(example["input_ids"])
        for example in map(examples.__getitem__, range(len(examples)))
        if example["text"][0] == name
    )


def test_examples_are_joined_and_numbered_by_their_position():
    mixed = Mixed([(Named("a", 0, [5, 6, 7]), np.array([0, 2])), (Named("b", 3, [8, 9]), np.array([1]))])
    assert len(mixed) == 3
    assert mixed.lengths.tolist() == [5, 7, 9]
    assert texts_of(mixed) == [("a", 0, 0), ("a", 0, 2), ("b", 3, 1)]
    assert [mixed[number]["example"] for number in range(3)] == [0, 1, 2]


def test_an_epoch_is_one_pass_over_the_first_source_and_a_part_of_the_others():
    """100 tokens of law are 80 %, so an epoch has 25 of general: 2 or 3 of 10 examples, and 4 epochs are a pass."""
    mixture = Mixture(sources_of(law=[10] * 10, general=[10] * 10), {"law": 0.8, "general": 0.2}, seed=1)
    epochs = [texts_of(mixture(epoch)) for epoch in range(8)]
    for epoch, texts in enumerate(epochs):
        assert texts[:10] == [("law", epoch, number) for number in range(10)]
    assert [len(texts) - 10 for texts in epochs] == [3, 2, 3, 2] * 2
    taken = [[text for texts in part for text in texts[10:]] for part in (epochs[:4], epochs[4:])]
    for number, texts in enumerate(taken):
        assert sorted(texts) == [("general", number, each) for each in range(10)]
    assert taken[0] != sorted(taken[0])
    assert [text[2] for text in taken[0]] != [text[2] for text in taken[1]], "a new order in each pass"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_shares_are_met_and_nothing_is_repeated_before_a_source_is_used_up(data):
    lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)
    sources = sources_of(a=data.draw(lengths), b=data.draw(lengths), c=data.draw(lengths))
    weights = data.draw(st.lists(st.floats(0.1, 1), min_size=3, max_size=3))
    shares = {name: weight / sum(weights) for name, weight in zip("abc", weights, strict=True)}
    mixture = Mixture(sources, shares, seed=2)
    tokens, seen = Counter(), Counter()
    for epoch in range(data.draw(st.integers(1, 6))):
        examples = mixture(epoch)
        numbers = [examples[number]["example"] for number in range(len(examples))]
        assert numbers == list(range(len(examples)))
        texts = texts_of(examples)
        assert len(set(texts)) == len(texts)
        seen.update((name, number) for name, _, number in texts)
        for name, draw in sources.items():
            tokens[name] += tokens_of(examples, name)
            goal = (epoch + 1) * mixture.totals["a"] * shares[name] / shares["a"]
            # Half a token of rounding per epoch, and the example in which the epoch ends.
            assert abs(tokens[name] - goal) <= (epoch + 1) / 2 + draw(0).lengths.max()
            counts = [seen[name, number] for number in range(len(draw(0)))]
            assert max(counts) - min(counts) <= 1


def test_an_epoch_depends_on_seed_and_number_alone():
    """A resumed run draws no earlier epoch."""
    sources = sources_of(a=range(1, 30), b=range(3, 40), c=[2, 3])
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    mixture = Mixture(sources, shares, seed=3)
    epochs = [texts_of(mixture(epoch)) for epoch in range(5)]
    for epoch in (3, 1, 4, 0, 2):
        assert texts_of(mixture(epoch)) == texts_of(Mixture(sources, shares, seed=3)(epoch)) == epochs[epoch]
    assert texts_of(Mixture(sources, shares, seed=4)(0)) != epochs[0]


def test_without_shares_each_epoch_has_all_sources_whole():
    mixture = Mixture(sources_of(a=[3, 4], b=[5, 6, 7]), None, seed=0)
    for epoch in range(3):
        texts = [("a", epoch, 0), ("a", epoch, 1), ("b", epoch, 0), ("b", epoch, 1), ("b", epoch, 2)]
        assert texts_of(mixture(epoch)) == texts, "in the order of the text, for sequential sampling"


def test_a_limit_is_for_the_first_source_only():
    sources = sources_of(a=[10] * 100, b=[10] * 100)
    mixture = Mixture(sources, {"a": 0.5, "b": 0.5}, seed=0, limit=30)
    names = Counter(text[0] for text in texts_of(mixture(0)))
    assert names == {"a": 30, "b": 30}
    assert texts_of(mixture(1))[:30] == [("a", 1, number) for number in range(30)]
    assert mixture.describe() == (
        "a 50.0% of the tokens (300 in an epoch, 0.30 passes), b 50.0% of the tokens (300 in an epoch, 0.30 passes)"
    )


def test_a_share_below_one_token_is_a_warning(caplog):
    Mixture(sources_of(law=[10] * 12, general=[10] * 12), {"law": 1 - 1e-9, "general": 1e-9}, seed=0)
    assert caplog.messages == ["general has no token in an epoch: give it a larger share in --mixture, or drop it"]


def test_a_source_smaller_than_its_share_is_repeated(caplog):
    mixture = Mixture(sources_of(law=[10] * 120, general=[10] * 12), {"law": 0.8, "general": 0.2}, seed=0)
    assert caplog.messages == [
        "general is repeated 2.5 times in an epoch, because it has fewer tokens than its share needs: give it more "
        "text, or a smaller share in --mixture"
    ]
    examples = mixture(0)
    passes = Counter(text[1] for text in texts_of(examples) if text[0] == "general")
    assert passes == {0: 12, 1: 12, 2: 6}
    assert mixture.describe() == (
        "law 80.0% of the tokens (1,200 in an epoch, 1.00 passes), "
        "general 20.0% of the tokens (300 in an epoch, 2.50 passes)"
    )


def test_a_pass_is_kept_until_the_next_begins():
    """Pairs take long to draw; an epoch of a small domain needs a small part of them."""
    drawn = []

    def draw(number):
        drawn.append(number)
        return Named("b", number, [10] * 100)

    mixture = Mixture({**sources_of(a=[10] * 25), "b": draw}, {"a": 0.5, "b": 0.5}, seed=0)
    for epoch in range(8):
        mixture(epoch)
        assert len(mixture.passes) == 2
        assert len(mixture.orders) == 1
    assert drawn == [0, 1]


def test_passes_of_different_length_are_used_up_too():
    """Pairs are drawn anew in each pass; each epoch takes the same fraction of one."""

    def draw(number):
        return Named("b", number, np.random.default_rng(number).integers(5, 15, size=50 + 3 * number))

    mixture = Mixture({**sources_of(a=[10] * 17), "b": draw}, {"a": 0.5, "b": 0.5}, seed=0)
    taken = Counter(text[1:] for epoch in range(30) for text in texts_of(mixture(epoch)) if text[0] == "b")
    whole = max(number for number, _ in taken)
    assert whole > 5
    assert set(taken.values()) == {1}
    for number in range(whole):
        assert [each for own, each in sorted(taken) if own == number] == list(range(50 + 3 * number))


def test_positions_of_a_long_run_do_not_overflow():
    """A position times a total exceeds 64 bits."""
    sources = sources_of(a=[2**40] * 3, b=[2**40] * 7)
    mixture = Mixture(sources, {"a": 0.25, "b": 0.75}, seed=0)
    texts = [text[1:] for epoch in range(10**6, 10**6 + 7) for text in texts_of(mixture(epoch)) if text[0] == "b"]
    assert len(texts) == len(set(texts)) == 7 * 9


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_all_processes_together_take_the_same_examples(processes):
    sources = sources_of(a=range(1, 31), b=range(1, 61))
    expected = sorted(texts_of(Mixture(sources, {"a": 0.4, "b": 0.6}, seed=3)(2)))
    taken = []
    for rank in range(processes):
        examples = EpochDataset(Mixture(sources, {"a": 0.4, "b": 0.6}, seed=3))
        batches = ResumableBatchSampler(examples, BatchSettings("group_by_length", 4, 1, processes), np.array, 3, rank)
        batches.set_epoch(2)
        taken += [examples[key]["text"] for key in chain.from_iterable(batches)]
    assert sorted(set(taken)) == expected
    assert len(taken) - len(expected) < processes


# Of real text


KINDS = {"blocks": {}, "lines": {"line_by_line": True}, "pairs": {}, "sentences": {"pair_strategy": "sentence"}}


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_real_examples_are_within_one_percent(kind, tokenizers):
    """In each epoch, though pairs differ in length from epoch to epoch."""
    tokenizer = tokenizers["wordpiece"]
    if kind in ("blocks", "lines"):
        builder = BlockBuilder(tokenizer, 64, DataTrainingArguments(**KINDS[kind]))
    else:
        builder = PairBuilder(tokenizer, 64, PairArguments(sentence_per_line=True, **KINDS[kind]), seed=0)
    encoder = own_encoder(tokenizer, False)
    draws = {}
    for name in ("music", "cooking", "astronomy"):
        documents = [text.splitlines() for text in (SAMPLE / f"{name}.txt").read_text().split("\n\n")]
        split = Split(name, tokenize(documents, builder.granularity, encoder, "en", None), None)
        draws[name] = lambda number, split=split: Marked(split.name, number, builder.build(split, number))
    shares = {"music": 0.6, "cooking": 0.3, "astronomy": 0.1}
    mixture = Mixture(draws, shares, seed=0)
    for epoch in range(6):
        examples = mixture(epoch)
        total = int(examples.lengths.sum())
        for name, share in shares.items():
            assert abs(tokens_of(examples, name) / total - share) < 0.01, (epoch, name)
