"""Test that mixed streams keep their shares for any workers, and resume exactly from any state."""

import json
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from cloze.data.mixed_stream import MixedBatches, MixedStream, shares_taken, tokens_taken
from cloze.data.samplers import BatchSettings
from cloze.data.streaming import StreamedBatches, StreamedExamples

SHARES = {"law": 0.7, "general": 0.2, "news": 0.1}


class Memory:
    """Hold shards of documents of one line."""

    num_bytes = 100

    def __init__(self, name, shards):
        self.name, self.shards, self.num_shards = name, shards, len(shards)

    def read_shard(self, number):
        return iter(self.shards[number])


class Lines(list):
    """Return lines, in an order drawn by the generator, as examples with one token per character."""

    def __init__(self, lines, rng):
        super().__init__({"text": lines[i], "input_ids": [0] * len(lines[i])} for i in rng.permutation(len(lines)))
        self.lengths = np.array([len(example["text"]) for example in self], dtype=int)


def make(documents, rng):
    return Lines(list(chain.from_iterable(documents)), rng)


def source(name, *counts):
    """Return a stream of shards with these numbers of documents, lines of 20 to 40 characters."""
    rng = np.random.default_rng(len(name))
    shards = [
        [[f"{name}.s{shard}.d{number}.".ljust(int(rng.integers(20, 40)), "x")] for number in range(count)]
        for shard, count in enumerate(counts)
    ]
    return StreamedExamples(Memory(name, shards), make, chunk=400)


def stream():
    sources = {"law": source("law", 60, 80, 70), "general": source("general", 90, 40), "news": source("news", 8)}
    return MixedStream(sources, SHARES)


def batches_of(processes=1, workers=0, states=None):
    settings = BatchSettings("group_by_length", 4)
    return [
        MixedBatches(stream(), settings, np.array, 5, rank, processes, workers, states) for rank in range(processes)
    ]


def take(datasets, steps, workers=0):
    """Return the batches of some steps of all processes, taken from workers in turn, and the states to save."""
    taken, saved = [], []
    for dataset in datasets:
        states, iterators = list(dataset.states), [dataset.batches_of(worker) for worker in range(max(workers, 1))]
        for step in range(steps):
            turn = step % len(iterators)
            batch, (worker, state) = next(iterators[turn])
            assert worker == turn
            states[turn] = state
            taken.append(batch)
        turn = steps % len(iterators)
        saved.append(states[turn:] + states[:turn])
    return taken, json.loads(json.dumps(saved))


def names_of(batches):
    """Return the source of each batch, of which there is one."""
    names = [{example["text"].partition(".")[0] for example in batch} for batch in batches]
    assert all(len(name) == 1 for name in names)
    return [name.pop() for name in names]


def tokens_of(batches):
    tokens = Counter()
    for name, batch in zip(names_of(batches), batches, strict=True):
        tokens[name] += sum(len(example["text"]) for example in batch)
    return tokens


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 2)])
def test_shares_are_met_for_any_workers(processes, workers):
    """Of each worker, a source is never further off its share than one batch."""
    batches, states = take(batches_of(processes, workers), 400, workers)
    tokens = tokens_of(batches)
    assert tokens_taken(states) == tokens
    total = sum(tokens.values())
    taken = shares_taken(states)
    for name, share in SHARES.items():
        assert taken[name] == tokens[name] / total
        assert abs(taken[name] - share) < 0.01


def test_every_source_is_close_to_its_share_at_any_time():
    batches, _ = take(batches_of(), 200)
    largest = max(sum(len(example["text"]) for example in batch) for batch in batches)
    tokens, total = Counter(), 0
    for name, batch in zip(names_of(batches), batches, strict=True):
        size = sum(len(example["text"]) for example in batch)
        tokens[name] += size
        total += size
        assert all(abs(tokens[each] - share * total) <= 2 * largest for each, share in SHARES.items())


def test_each_source_is_streamed_as_if_alone():
    """So nothing is repeated before a source is used up, and each epoch of it has a new order."""
    batches, _ = take(batches_of(), 300)
    settings = BatchSettings("group_by_length", 4)
    names = names_of(batches)
    for name, examples in stream().sources.items():
        own = [[each["text"] for each in batch] for batch, found in zip(batches, names, strict=True) if found == name]
        alone = StreamedBatches(examples, settings, np.array, 5).batches_of(0)
        assert own == [[each["text"] for each in batch] for batch, _ in islice(alone, len(own))]
    epochs = Counter((each["text"], each["epoch"]) for batch in batches for each in batch)
    assert set(epochs.values()) == {1}
    assert max(each["epoch"] for batch in batches for each in batch if each["text"].startswith("news")) > 2


def test_numbers_of_examples_are_unique():
    """Masks depend on (seed, epoch, example)."""
    batches, _ = take(batches_of(), 300)
    numbers = Counter((each["epoch"], each["example"]) for batch in batches for each in batch)
    assert set(numbers.values()) == {1}
    assert 0 <= min(number for _, number in numbers) <= max(number for _, number in numbers) < 2**63


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("steps", [0, 1, 7, 40])
def test_a_mixed_stream_resumes_exactly(steps, processes, workers):
    whole, end = take(batches_of(processes, workers), steps + 30, workers)
    whole = [whole[first : first + steps + 30][steps:] for first in range(0, len(whole), steps + 30)]
    _, states = take(batches_of(processes, workers), steps, workers)
    rest, resumed_end = take(batches_of(processes, workers, states), 30, workers)
    assert rest == list(chain.from_iterable(whole))
    assert tokens_taken(resumed_end) == tokens_taken(end)


def test_shares_are_kept_when_the_number_of_workers_changes():
    taken, states = [], None
    for processes, workers in [(1, 0), (2, 2), (1, 3), (3, 0)]:
        more, states = take(batches_of(processes, workers, states), 60, workers)
        taken += more
        tokens = tokens_of(taken)
        assert tokens_taken(states) == tokens
    total = sum(tokens.values())
    for name, share in SHARES.items():
        assert abs(tokens[name] / total - share) < 0.01


def test_a_state_stays_the_same_when_more_batches_are_taken():
    """Data loaders take batches ahead."""
    items = list(islice(batches_of()[0].batches_of(0), 6))
    for number, (_, (_, state)) in enumerate(items, 1):
        assert state["taken"] == dict.fromkeys(SHARES, 0) | tokens_of([batch for batch, _ in items[:number]])


def test_a_mixed_stream_goes_through_a_data_loader():
    def loaded(states, steps):
        dataset = MixedBatches(stream(), BatchSettings("group_by_length", 4), np.array, 5, 0, 1, 2, states)
        loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=lambda item: item)
        current, taken = list(dataset.states), []
        for batch, (worker, state) in islice(loader, steps):
            current[worker] = state
            taken.append(batch)
        turn = steps % 2
        return taken, [current[turn:] + current[:turn]]

    first, states = loaded(None, 9)
    assert first + loaded(states, 9)[0] == loaded(None, 18)[0] == take(batches_of(1, 2), 18, 2)[0]


def test_the_size_is_the_sum_of_the_sources():
    assert stream().size == [6, 300]
