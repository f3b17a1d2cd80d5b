"""The order of examples: each once an epoch, reproducible, whatever the workers."""

import os
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cloze.batching import EpochExamples, EpochSampler, StreamedExamples, shuffle

STRATEGIES = ["random", "sequential", "group_by_length"]
LENGTHS = np.random.default_rng(0).integers(8, 128, size=1003)


class Numbers:
    """Examples of these lengths, that tell their number and for which epoch they were drawn."""

    def __init__(self, lengths, drawn=None):
        self.lengths, self.drawn = lengths, drawn

    def __getitem__(self, number):
        return {"number": number, "drawn": self.drawn, "length": int(self.lengths[number])}


def order_of(strategy, seed, epoch, lengths=LENGTHS):
    sampler = EpochSampler(EpochExamples(lambda _: Numbers(lengths)), strategy, 16, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(lengths)
    return numbers_of(sampler, epoch)


def numbers_of(sampler, epoch):
    keys = list(sampler)
    assert len(keys) == len(sampler)
    assert {key[0] for key in keys} == {epoch}
    assert {type(key[1]) for key in keys} == {int}
    return [key[1] for key in keys]


# Examples that are at hand


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 5, 16, 1003])
def test_every_example_once_an_epoch(strategy, count):
    for epoch in (0, 1, 7):
        assert sorted(order_of(strategy, 3, epoch, LENGTHS[:count])) == list(range(count))


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_order_depends_on_seed_and_epoch_alone(strategy):
    orders = {(seed, epoch): order_of(strategy, seed, epoch) for seed in (0, 1, 42) for epoch in (0, 1, 2)}
    assert len(set(map(tuple, orders.values()))) == 9
    assert orders == {key: order_of(strategy, *key) for key in orders}


def test_sequential_order():
    assert order_of("sequential", 0, 0) == order_of("sequential", 1, 5) == list(range(1003))


def padding(order):
    lengths = LENGTHS[order][:992].reshape(-1, 16)
    return (lengths.max(1, keepdims=True) - lengths).mean()


def test_examples_of_similar_length_are_grouped():
    """Random batches of lengths up to 128 have 50 tokens of padding an example, grouped ones 4 or 5."""
    assert padding(order_of("random", 0, 0)) > 40
    assert padding(order_of("group_by_length", 0, 0)) < 6


class Squares:
    lengths = np.arange(1, 11)

    def __getitem__(self, number):
        return {"square": number * number}


@pytest.mark.parametrize(("limit", "length"), [(None, 10), (4, 4), (99, 10)])
def test_examples_are_marked_with_the_epoch(limit, length):
    examples = EpochExamples(lambda epoch: Squares(), limit)
    assert len(examples) == length
    assert examples.lengths(5).tolist() == list(range(1, length + 1))
    assert examples[5, 3] == {"square": 9, "epoch": 5}


# Examples that are drawn anew each epoch

# The first epoch has 20, the others fewer or more.
COUNTS = (20, 17, 23, 20, 1, 61)


def unequal(epoch):
    return Numbers(np.random.default_rng(epoch).integers(8, 128, COUNTS[epoch]), epoch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_epoch_is_as_long_as_the_first(strategy):
    """Unexpected surplus is left out; where some are missing, those that there are are taken in turn."""
    sampler = EpochSampler(EpochExamples(unequal), strategy, 4, seed=1)
    for epoch, count in enumerate(COUNTS):
        sampler.set_epoch(epoch)
        assert len(sampler) == 20
        times = np.bincount(numbers_of(sampler, epoch), minlength=count)
        assert len(times) == count
        assert times.sum() == 20
        assert set(times.tolist()) <= {20 // count, -(-20 // count)}


def test_where_the_number_varies_an_epoch_has_a_few_more():
    """None is left out of the third epoch, which has 23; 25 are taken of each, but no more than the limit."""

    def draw(epoch):
        numbers = unequal(epoch)
        numbers.spread = 5
        return numbers

    sampler = EpochSampler(EpochExamples(draw), "random", 4, seed=1)
    for epoch, count in enumerate(COUNTS[:4]):
        sampler.set_epoch(epoch)
        times = np.bincount(numbers_of(sampler, epoch))
        assert times.sum() == len(sampler) == 25
        assert len(times) == count
        assert set(times.tolist()) <= {1, 2}
    assert [len(EpochExamples(draw, limit)) for limit in (18, 22, 99)] == [18, 22, 25]


def test_surplus_is_left_out_at_random():
    """Of 61 examples 20 are taken, other ones with another seed; in order, the first."""
    taken = set()
    for seed in range(20):
        sampler = EpochSampler(EpochExamples(unequal), "random", 4, seed)
        sampler.set_epoch(5)
        taken |= set(sampler)
    assert len(taken) > 55
    sampler = EpochSampler(EpochExamples(unequal), "sequential", 4, 0)
    sampler.set_epoch(5)
    assert numbers_of(sampler, 5) == list(range(20))
    sampler.set_epoch(1)
    assert numbers_of(sampler, 1) == [*range(17), 0, 1, 2]


@pytest.mark.parametrize(("limit", "lengths"), [(None, [20, 17, 23, 20, 1, 61]), (18, [18, 17, 18, 18, 1, 18])])
def test_lengths_are_those_of_the_epoch(limit, lengths):
    examples = EpochExamples(unequal, limit)
    for epoch in (0, 5, 2, 1, 4, 3, 0):
        assert examples.lengths(epoch).tolist() == unequal(epoch).lengths[:limit].tolist()
        assert len(examples.lengths(epoch)) == lengths[epoch]
        assert len(examples) == lengths[0]


def test_with_a_limit_no_later_example_is_taken():
    """The first 18 of an epoch, though it has 61, or 17 and one of them again."""
    sampler = EpochSampler(EpochExamples(unequal, limit=18), "random", 4, 0)
    for epoch, expected in ((5, list(range(18))), (1, list(range(17)))):
        sampler.set_epoch(epoch)
        numbers = numbers_of(sampler, epoch)
        assert len(numbers) == 18
        assert sorted(set(numbers)) == expected


def test_examples_are_grouped_by_their_lengths_in_the_epoch():
    """In batches of 4 the longest and the shortest differ less than in random ones, epoch by epoch."""

    def spread(strategy, epoch):
        examples = EpochExamples(lambda epoch: Numbers(np.random.default_rng(epoch).integers(8, 128, 200)))
        sampler = EpochSampler(examples, strategy, 4, 0)
        sampler.set_epoch(epoch)
        lengths = examples.lengths(epoch)[numbers_of(sampler, epoch)].reshape(-1, 4)
        return np.ptp(lengths, axis=1).mean()

    for epoch in (0, 1, 2):
        assert spread("group_by_length", epoch) < 10
        assert spread("random", epoch) > 40


class CountedDraw:
    """Counts the draws of each epoch in this process; those of workers, which are forked, do not show."""

    def __init__(self):
        self.epochs = []

    def __call__(self, epoch):
        self.epochs.append(epoch)
        return unequal(epoch)


def test_an_epoch_is_drawn_once_and_before_it_begins():
    draw = CountedDraw()
    examples = EpochExamples(draw)
    sampler = EpochSampler(examples, "random", 4, 0)
    assert draw.epochs == [0]
    for epoch in (0, 1, 2, 2):
        sampler.set_epoch(epoch)
        drawn = list(draw.epochs)
        assert [examples[key]["drawn"] for key in sampler] == [epoch] * 20
        assert draw.epochs == drawn, "not while examples are asked for"
    assert draw.epochs == [0, 1, 2]


def test_on_resuming_the_epochs_before_are_not_drawn():
    draw = CountedDraw()
    sampler = EpochSampler(EpochExamples(draw), "random", 4, 0)
    sampler.set_epoch(3)
    assert len(list(sampler)) == 20
    assert draw.epochs == [0, 3]


def epochs_of(workers, persistent=False, draw=unequal):
    """Six epochs of examples, from the sampler that a data loader has."""
    sampler = EpochSampler(EpochExamples(draw), "random", 4, seed=7)
    loader = DataLoader(
        sampler.examples, 4, sampler=sampler, num_workers=workers, persistent_workers=persistent, collate_fn=list
    )
    epochs = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        epochs.append([example for batch in loader for example in batch])
    return epochs


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_give_the_examples_that_one_process_gives(persistent):
    """Also those that outlive an epoch, to which nobody tells the next one: they draw it when they are asked for it."""
    here = epochs_of(0)
    for epoch, examples in enumerate(here):
        assert len(examples) == 20
        assert [(example["epoch"], example["drawn"]) for example in examples] == [(epoch, epoch)] * 20
        expected = unequal(epoch).lengths
        assert [example["length"] for example in examples] == [expected[example["number"]] for example in examples]
    assert epochs_of(2, persistent) == here


def test_workers_share_what_was_drawn_before_they_were_forked():
    """A draw in a worker would fail: it is made once, here."""
    here = os.getpid()

    def draw(epoch):
        assert os.getpid() == here, "drawn in a worker"
        return unequal(epoch)

    assert epochs_of(2, draw=draw) == epochs_of(0)


# Examples that are made while they are read


def stream():
    return ({"example": number} for number in range(103))


def first_of(dataset, total, workers=0):
    """The first ``total`` examples that a data loader gives, one at a time."""
    loader = DataLoader(dataset, 1, num_workers=workers, collate_fn=list)
    return [batch[0] for batch in islice(loader, total)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("limit", "count"), [(None, 103), (50, 50), (1, 1), (500, 103)])
def test_every_streamed_example_once_an_epoch_without_an_end(workers, limit, count):
    """Mistake 8, too: the epochs, on which masks depend, are told apart in workers that outlive them."""
    examples = first_of(StreamedExamples(stream, 0, limit), 3 * count, workers)
    if not workers:
        assert [example["epoch"] for example in examples] == count * [0] + count * [1] + count * [2]
    # With an odd number of examples, one worker begins its next epoch before the other.
    of_epoch = [[e["example"] for e in examples if e["epoch"] == epoch] for epoch in (0, 1)]
    assert [sorted(numbers) for numbers in of_epoch] == [list(range(count))] * 2


def test_streamed_training_is_shuffled_by_seed_and_epoch():
    def orders(seed):
        numbers = [example["example"] for example in first_of(StreamedExamples(stream, seed), 206)]
        return tuple(numbers[:103]), tuple(numbers[103:])

    assert len({*orders(0), *orders(1), tuple(range(103))}) == 5
    assert orders(0) == orders(0)


def test_a_worker_without_an_example_does_not_search_for_ever():
    assert len(first_of(StreamedExamples(stream, 0, 1), 5, workers=2)) == 5


# The buffer


@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_shuffle_is_a_permutation_within_its_buffer(count, buffer_size, seed):
    """What comes out at place i was among the first i + buffer_size, and no more than those were read."""
    read = []

    def source():
        for number in range(count):
            read.append(number)
            yield number

    order = []
    for place, number in enumerate(shuffle(source(), np.random.default_rng(seed), buffer_size)):
        assert number < place + buffer_size
        assert len(read) <= place + buffer_size + 1
        order.append(number)
    assert sorted(order) == list(range(count))


def test_shuffle_with_room_for_all_is_uniform():
    """Each of 6 examples at each of 6 places equally often, within 5 standard deviations of the chi-square."""
    counts = np.zeros((6, 6))
    rng = np.random.default_rng(0)
    for _ in range(3000):
        counts[np.arange(6), list(shuffle(iter(range(6)), rng, 10))] += 1
    assert abs(((counts - 500) ** 2 / 500).sum() - 25) < 5 * np.sqrt(2 * 25)


def test_shuffle_with_room_for_some_keeps_each_for_a_random_time():
    """In a buffer of 100, of which one leaves at a time, the share that leaves within 100 is 1 - 1/e."""
    order = np.array(list(shuffle(iter(range(5000)), np.random.default_rng(0), 100)))
    early = (order > np.arange(5000))[:4900]
    assert abs(early.mean() - (1 - np.exp(-1))) < 0.03
