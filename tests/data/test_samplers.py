"""Test batches and their order: each example once per epoch, reproducible, for any number of workers."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from cloze.data.collators import Padding
from cloze.data.pairs import PairSettings, Sentences, draw_pairs
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler, draw_batches
from cloze.tokenization.encoding import encode
from cloze.tokenization.templates import pair_template_of
from tests.utils import ROOT

STRATEGIES = ["random", "sequential", "group_by_length"]
LENGTHS = np.random.default_rng(0).integers(8, 128, size=1003)
AS_THEY_ARE = Padding()
MEDITATIONS = ROOT.parent / "shared" / "data" / "meditations.txt"


class Numbers:
    """Examples of these lengths, with their number and the epoch they were drawn for."""

    def __init__(self, lengths, drawn=None):
        self.lengths, self.drawn = lengths, drawn

    def __getitem__(self, number):
        return {"number": number, "drawn": self.drawn, "length": int(self.lengths[number])}


def batches_of(settings, seed=0, epoch=0, lengths=LENGTHS, padding=AS_THEY_ARE):
    """Return the numbers in each batch of an epoch."""
    examples = EpochDataset(lambda _: Numbers(lengths))
    ranks = [
        ResumableBatchSampler(examples, settings, padding.padded_lengths, seed, rank)
        for rank in range(settings.processes)
    ]
    for batches in ranks:
        batches.set_epoch(epoch)
    return in_turn([numbers_of(batches, epoch) for batches in ranks])


def in_turn(ranks):
    """Return the batches of all processes; each process has the same number."""
    return [batch for batches in zip(*ranks, strict=True) for batch in batches]


def numbers_of(batches, epoch):
    """Return the numbers in each batch; check that they are Python integers of this epoch."""
    found = list(batches)
    assert len(found) == len(batches)
    assert {key[0] for batch in found for key in batch} <= {epoch}
    assert {type(key[1]) for batch in found for key in batch} <= {int}
    return [[key[1] for key in batch] for batch in found]


def flat(batches):
    return [number for batch in batches for number in batch]


def steps_of(batches, settings):
    """Return the examples of each optimizer step."""
    size = settings.batches_per_step
    return [flat(batches[start : start + size]) for start in range(0, len(batches), size)]


def drawn(widths, settings, seed=0):
    """Return the examples of each step, drawn without a sampler."""
    order, spans = draw_batches(np.array(widths), settings, np.random.default_rng(seed))
    return [order[begin:end].tolist() for begin, end in spans]


def real_share(batches, lengths, padding=AS_THEY_ARE):
    """Return the fraction of positions that are not padding."""
    lengths = np.asarray(lengths)
    places = sum(len(batch) * padding.padded_lengths(lengths[batch]).max() for batch in batches)
    return sum(lengths[batch].sum() for batch in batches) / places


# Batches by number of examples

SETTINGS = st.builds(
    BatchSettings,
    st.sampled_from(STRATEGIES),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
)
SOME_LENGTHS = st.lists(st.integers(1, 128), min_size=4, max_size=150)


@given(SOME_LENGTHS, SETTINGS, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_sampler_gives_every_example_once_an_epoch(lengths, settings, seed):
    """All processes get equally many batches, none empty; leftover examples enlarge some batches by one."""
    batches = drawn(lengths, settings, seed)
    numbers = flat(batches)
    assert len(numbers) == len(set(numbers))
    assert len(batches) % settings.processes == 0
    assert all(batches)
    left_out = len(lengths) - len(numbers)
    step = settings.batch_size * settings.batches_per_step
    if settings.drop_last and len(lengths) >= step:
        assert left_out == len(lengths) % step
        assert {len(batch) for batch in batches} == {settings.batch_size}
    else:
        assert left_out == 0
        uneven = len(lengths) % settings.processes > 0
        one_more = uneven and (settings.batch_size == 1 or len(lengths) % step < settings.processes)
        assert max(map(len, batches)) <= settings.batch_size + one_more
    assert len(steps_of(batches, settings)) <= -(-len(lengths) // step)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 5, 16, 1003])
def test_sampler_gives_every_example_once_in_each_of_several_epochs(strategy, count):
    for epoch in (0, 1, 7):
        batches = batches_of(BatchSettings(strategy, 16), 3, epoch, LENGTHS[:count])
        assert sorted(flat(batches)) == list(range(count))
        assert [len(batch) for batch in batches] == [16] * (count // 16) + [count % 16] * (count % 16 > 0)


@pytest.mark.parametrize("settings", [BatchSettings("random", 16), BatchSettings("group_by_length", 16)])
def test_order_depends_on_seed_and_epoch_alone(settings):
    orders = {(seed, epoch): batches_of(settings, seed, epoch) for seed in (0, 1, 42) for epoch in (0, 1, 2)}
    assert len({str(order) for order in orders.values()}) == 9
    assert orders == {key: batches_of(settings, *key) for key in orders}


def test_batches_by_tokens_depend_on_seed_and_epoch_alone():
    test_order_depends_on_seed_and_epoch_alone(BatchSettings("group_by_length", 1, max_tokens=999))


def test_sequential_order():
    for seed, epoch in ((0, 0), (1, 5)):
        assert flat(batches_of(BatchSettings("sequential", 16, 3), seed, epoch)) == list(range(1003))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [3, 16, 31, 32, 37, 1003])
def test_examples_of_a_step_do_not_depend_on_processes_and_accumulation(strategy, count):
    """16 at once, 4 times 4, 2 on each of 2 processes and so on give the same steps."""
    cuts = ((16, 1, 1), (4, 4, 1), (2, 8, 1), (8, 1, 2), (2, 4, 2), (2, 2, 4), (1, 8, 2))
    found = set()
    for cut in cuts:
        settings = BatchSettings(strategy, *cut)
        if count % 16 >= settings.processes or not count % 16:
            steps = steps_of(drawn(LENGTHS[:count], settings, seed=count), settings)
            found.add(str([sorted(step) for step in steps]))
    assert len(found) == 1


def test_examples_of_similar_length_share_a_step_and_its_batches():
    """With lengths up to 128, random batches are half padding, grouped batches nearly free of it."""
    assert real_share(batches_of(BatchSettings("random", 16)), LENGTHS) < 0.6
    assert real_share(batches_of(BatchSettings("group_by_length", 16)), LENGTHS) > 0.95
    settings = BatchSettings("group_by_length", 4, 4)
    batches = batches_of(settings)
    assert real_share(batches, LENGTHS) > 0.98
    assert max(np.ptp(LENGTHS[step]) for step in steps_of(batches, settings)[:-1]) < 8


def test_last_step_batches_are_grouped_by_length():
    """60 examples are one incomplete step of 64, in batches of 4."""
    settings = BatchSettings("group_by_length", 4, 16)
    assert real_share(batches_of(settings, lengths=LENGTHS[:60]), LENGTHS) > 0.9
    assert real_share(batches_of(BatchSettings("random", 4, 16), lengths=LENGTHS[:60]), LENGTHS) < 0.8


@pytest.mark.parametrize("max_tokens", [None, 64])
def test_examples_of_one_length_share_batches_at_random(max_tokens):
    """Full blocks have equal lengths: their neighbours in a batch differ from the text and between epochs."""
    settings = BatchSettings("group_by_length", 8, max_tokens=max_tokens)
    epochs = [batches_of(settings, epoch=epoch, lengths=np.full(800, 8)) for epoch in (0, 1)]
    neighbours = [number + 1 in batch for batches in epochs for batch in batches for number in batch]
    assert np.mean(neighbours) < 0.03
    together = [
        {tuple(sorted((a, b))) for batch in batches for a in batch for b in batch if a < b} for batches in epochs
    ]
    assert len(together[0] & together[1]) < 0.03 * len(together[0])


def correlation(a, b):
    """Return Spearman's rank correlation."""
    return np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        BatchSettings("group_by_length", 4),
        BatchSettings("group_by_length", 4, 4),
        BatchSettings("group_by_length", 1, max_tokens=512),
        BatchSettings("group_by_length", 1, accumulation=2, max_tokens=512),
    ],
)
def test_steps_are_not_ordered_by_length(settings):
    """Over 60 to 250 steps, chance gives a correlation of about 0.1; its mean over 30 epochs is 0.02."""
    found = []
    for epoch in range(30):
        steps = steps_of(batches_of(settings, epoch=epoch), settings)[:-1]
        found.append(correlation(range(len(steps)), [LENGTHS[step].mean() for step in steps]))
    assert abs(np.mean(found)) < 0.1
    assert max(map(abs, found)) < 0.6


@pytest.mark.parametrize("accumulation", [1, 4])
def test_last_step_has_any_length(accumulation):
    """Leftover examples are random: over 100 epochs, their mean length equals the mean of all."""
    settings = BatchSettings("group_by_length", 4, accumulation)
    last = [steps_of(batches_of(settings, epoch=epoch), settings)[-1] for epoch in range(100)]
    assert {len(step) for step in last} == {1003 % (4 * accumulation)}
    assert abs(np.mean([LENGTHS[step].mean() for step in last]) - LENGTHS.mean()) < 5
    assert len(set(flat(last))) > 200


def test_drop_last_drops_other_examples_each_epoch():
    settings = BatchSettings("group_by_length", 4, 4, drop_last=True)
    left_out = [set(range(1003)) - set(flat(batches_of(settings, epoch=epoch))) for epoch in range(100)]
    assert {len(numbers) for numbers in left_out} == {1003 % 16}
    assert len(set.union(*left_out)) > 500


def test_drop_last_keeps_the_only_step():
    """Fewer examples than fill a step are better than none."""
    assert sorted(flat(drawn([9] * 5, BatchSettings("random", 4, 4, drop_last=True)))) == list(range(5))
    by_tokens = BatchSettings("group_by_length", 1, accumulation=4, drop_last=True, max_tokens=18)
    assert sorted(flat(drawn([9] * 5, by_tokens))) == list(range(5))


def test_too_few_examples_for_all_processes_join_a_step():
    """With 17 examples and 16 per step, one is left for 4 processes: the step takes 17."""
    batches = drawn([9] * 17, BatchSettings("sequential", 4, 1, processes=4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 5]
    assert flat(batches) == list(range(17))
    batches = drawn([9] * 33, BatchSettings("sequential", 2, 2, processes=4))
    assert [len(batch) for batch in batches] == [2] * 8 + [2, 2, 2, 2, 2, 2, 2, 3]
    assert flat(batches) == list(range(33))


def test_remaining_examples_are_shared_evenly_by_processes():
    """22 examples leave 6: 3 for each of 2 processes, not 4 and 2; 29 leave 13, in 4 batches of at most 4."""
    assert [len(batch) for batch in drawn([9] * 22, BatchSettings("random", 4, 2, processes=2))] == [4] * 4 + [3, 3]
    sizes = [len(batch) for batch in drawn([9] * 29, BatchSettings("random", 4, 2, processes=2))]
    assert sizes == [4] * 4 + [3, 3, 3, 4]


# Batches by number of tokens


@given(SOME_LENGTHS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 400), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_token_budget_gives_every_example_once_an_epoch(lengths, accumulation, processes, max_tokens, seed):
    """Batches stay within the budget unless one example exceeds it; if no batch can be split, some are taken twice."""
    widths = Padding(4, 128).padded_lengths(np.array(lengths))
    batches = drawn(widths, BatchSettings("group_by_length", 1, accumulation, processes, max_tokens=max_tokens), seed)
    assert len(batches) % processes == 0
    assert all(batches)
    assert set(flat(batches)) == set(range(len(lengths)))
    twice = len(flat(batches)) - len(lengths)
    assert twice == 0 or (twice < processes and {len(batch) for batch in batches} == {1})
    assert all(len(batch) * widths[batch].max() <= max_tokens or len(batch) == 1 for batch in batches)


def test_token_budget_repeats_examples_where_no_batch_can_be_split():
    batches = drawn([9] * 5, BatchSettings("group_by_length", 1, processes=4, max_tokens=9))
    assert len(batches) == 8
    assert sorted(np.bincount(flat(batches)).tolist()) == [1, 1, 2, 2, 2]


def test_token_budget_splits_the_batch_with_most_examples():
    """Two of length 20 and three of length 9 fit into 40 tokens; two processes share these batches."""
    batches = drawn([20, 20, 9, 9, 9], BatchSettings("group_by_length", 1, processes=2, max_tokens=40))
    assert sorted(map(sorted, batches)) == [[0, 1], [2, 3, 4]]
    batches = drawn([20, 20, 9, 9, 9], BatchSettings("group_by_length", 1, processes=3, max_tokens=40))
    assert sorted(map(len, batches)) == [1, 2, 2]
    assert [0, 1] in map(sorted, batches)


@pytest.mark.parametrize("processes", [1, 2])
def test_token_budget_drop_last_drops_incomplete_steps(processes):
    whole = BatchSettings("group_by_length", 1, 4, processes, max_tokens=500)
    batches, full = batches_of(whole), batches_of(BatchSettings(**vars(whole) | {"drop_last": True}))
    assert len(batches) % (4 * processes)
    assert full == batches[: len(batches) // (4 * processes) * 4 * processes]


def test_token_budget_batches_of_one_length_have_equal_size():
    """At most one batch per padded length has another size, so a device sees few shapes."""
    lengths = np.random.default_rng(1).integers(9, 129, size=20_000)
    padding = Padding(4, 128)
    widths = padding.padded_lengths(lengths)
    batches = batches_of(BatchSettings("group_by_length", 1, max_tokens=2048), lengths=lengths, padding=padding)
    shapes = {(len(batch), widths[batch].max()) for batch in batches}
    by_width = {width: [len(batch) for batch in batches if widths[batch].max() == width] for _, width in shapes}
    assert len(by_width) == 30
    for width, sizes in by_width.items():
        assert max(sizes) == 2048 // width
        assert sum(size != 2048 // width for size in sizes) <= 1


def test_token_budget_fits_more_tokens_than_fixed_batch_size():
    """Batches by tokens have similar numbers of tokens, batches by number do not."""
    by_tokens = batches_of(BatchSettings("group_by_length", 1, max_tokens=1024))
    tokens = [LENGTHS[batch].sum() for batch in by_tokens]
    assert np.percentile(tokens, 10) > 850
    assert len(by_tokens) < 1.15 * LENGTHS.sum() / 1024


@pytest.fixture(scope="module")
def meditations():
    if not MEDITATIONS.exists():
        pytest.skip("the text is not there")
    documents = [text.split("\n") for text in MEDITATIONS.read_text().strip().split("\n\n")]
    documents = [[line for line in lines if line] for lines in documents]
    lines = [line for lines in documents for line in lines]
    tokenizer = BertTokenizer().train_new_from_iterator([lines], vocab_size=8000)
    return tokenizer, lines


def shares_of(draw):
    """Return the fraction without padding over three epochs, in batches of at most 1024 tokens, padded to 4."""
    padding, budget = Padding(4, 128), BatchSettings("group_by_length", 1, max_tokens=1024)
    batches = ResumableBatchSampler(EpochDataset(draw), budget, padding.padded_lengths, seed=0)
    shares = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        shares.append(real_share(numbers_of(batches, epoch), draw(epoch).lengths, padding))
    return shares


def test_token_budget_leaves_little_padding_for_lines(meditations):
    tokenizer, lines = meditations
    lengths = np.minimum([len(ids) for ids in tokenizer(lines)["input_ids"]], 128)
    assert len(lengths) > 400
    assert min(shares_of(lambda epoch: Numbers(lengths))) > 0.95


@pytest.mark.parametrize("strategy", ["segment", "sentence"])
def test_token_budget_leaves_little_padding_for_pairs(strategy, meditations):
    """Sentences end at full stops; a document has ten sentences."""
    tokenizer, lines = meditations
    texts = [text for line in lines for text in line.split(". ") if text]
    encoded = [ids for document in encode([texts], tokenizer, with_words=False) for ids, _ in document]
    ends = np.cumsum([len(ids) for ids in encoded])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    counts = np.full(-(-len(texts) // 10), 10)
    counts[-1] -= counts.sum() - len(texts)
    sentences, template = Sentences.of(spans, counts), pair_template_of(tokenizer)
    room = PairSettings(128 - template.num_special, strategy)

    def draw(epoch):
        return draw_pairs(np.concatenate(encoded), sentences, template, room, np.random.default_rng(epoch))

    assert min(shares_of(draw)) > 0.95


# Examples


class Squares:
    lengths = np.arange(1, 11)

    def __getitem__(self, number):
        return {"square": number * number}


@pytest.mark.parametrize(("limit", "length"), [(None, 10), (4, 4), (99, 10)])
def test_sampled_numbers_carry_the_epoch(limit, length):
    examples = EpochDataset(lambda epoch: Squares(), limit)
    assert len(examples) == length
    assert examples.lengths(5).tolist() == list(range(1, length + 1))
    assert examples[5, 3] == {"square": 9, "epoch": 5}


# Examples that are drawn again in each epoch

# The first epoch has 20, the others fewer or more.
COUNTS = (20, 17, 23, 20, 1, 61)


def unequal(epoch):
    return Numbers(np.random.default_rng(epoch).integers(8, 128, COUNTS[epoch]), epoch)


@pytest.mark.parametrize(
    "settings", [*(BatchSettings(s, 4) for s in STRATEGIES), BatchSettings("group_by_length", 1, max_tokens=256)]
)
def test_drawn_epoch_gives_each_example_once(settings):
    """For any number of examples, none is skipped, and none is taken twice to match the first epoch."""
    batches = ResumableBatchSampler(EpochDataset(unequal), settings, AS_THEY_ARE.padded_lengths, seed=1)
    for epoch, count in enumerate(COUNTS):
        batches.set_epoch(epoch)
        assert sorted(flat(numbers_of(batches, epoch))) == list(range(count))


@pytest.mark.parametrize(("limit", "lengths"), [(None, [20, 17, 23, 20, 1, 61]), (18, [18, 17, 18, 18, 1, 18])])
def test_sampler_uses_the_lengths_of_the_epoch(limit, lengths):
    examples = EpochDataset(unequal, limit)
    for epoch in (0, 5, 2, 1, 4, 3, 0):
        assert examples.lengths(epoch).tolist() == unequal(epoch).lengths[:limit].tolist()
        assert len(examples.lengths(epoch)) == lengths[epoch]
        assert len(examples) == lengths[0]


def test_example_limit_takes_no_later_example():
    """The first 18 of an epoch with 61 examples, or all of an epoch with 17."""
    batches = ResumableBatchSampler(
        EpochDataset(unequal, limit=18), BatchSettings("random", 4), AS_THEY_ARE.padded_lengths, 0
    )
    for epoch, count in ((5, 18), (1, 17)):
        batches.set_epoch(epoch)
        assert sorted(flat(numbers_of(batches, epoch))) == list(range(count))


def test_examples_are_grouped_by_their_lengths_in_the_epoch():
    """Grouped batches of 4 have little padding in each epoch, random batches do not."""

    def draw(epoch):
        return Numbers(np.random.default_rng(epoch).integers(8, 128, 200))

    for strategy, low, high in (("group_by_length", 0.95, 1), ("random", 0, 0.8)):
        batches = ResumableBatchSampler(EpochDataset(draw), BatchSettings(strategy, 4), AS_THEY_ARE.padded_lengths, 0)
        for epoch in (0, 1, 2):
            batches.set_epoch(epoch)
            assert low < real_share(numbers_of(batches, epoch), draw(epoch).lengths) < high


class CountedDraw:
    """Counts the draws of each epoch in this process; draws in workers, which are forked, are not counted."""

    def __init__(self):
        self.epochs = []

    def __call__(self, epoch):
        self.epochs.append(epoch)
        return unequal(epoch)


def test_epoch_is_drawn_once_before_it_begins():
    draw = CountedDraw()
    examples = EpochDataset(draw)
    batches = ResumableBatchSampler(examples, BatchSettings("random", 4), AS_THEY_ARE.padded_lengths, 0)
    assert draw.epochs == [0]
    for epoch in (0, 1, 2, 2):
        batches.set_epoch(epoch)
        before = list(draw.epochs)
        assert [examples[key]["drawn"] for batch in batches for key in batch] == [epoch] * COUNTS[epoch]
        assert draw.epochs == before, "not while examples are asked for"
    assert draw.epochs == [0, 1, 2]


def test_resuming_does_not_draw_earlier_epochs():
    draw = CountedDraw()
    batches = ResumableBatchSampler(EpochDataset(draw), BatchSettings("random", 4), AS_THEY_ARE.padded_lengths, 0)
    batches.set_epoch(3)
    assert len(flat(batches)) == 20
    assert draw.epochs == [0, 3]


def epochs_of(workers, persistent=False, draw=unequal):
    """Return six epochs of batches from a data loader."""
    batches = ResumableBatchSampler(EpochDataset(draw), BatchSettings("random", 4), AS_THEY_ARE.padded_lengths, seed=7)
    loader = DataLoader(
        batches.examples, batch_sampler=batches, num_workers=workers, persistent_workers=persistent, collate_fn=list
    )
    epochs = []
    for epoch in range(6):
        batches.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_give_the_same_batches_as_one_process(persistent):
    """Also those that outlive an epoch, to which nobody tells the next one: they draw it when they are asked for it."""
    here = epochs_of(0)
    for epoch, batches in enumerate(here):
        examples = flat(batches)
        assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)
        assert [(example["epoch"], example["drawn"]) for example in examples] == [(epoch, epoch)] * COUNTS[epoch]
        expected = unequal(epoch).lengths
        assert [example["length"] for example in examples] == [expected[example["number"]] for example in examples]
    assert epochs_of(2, persistent) == here


def test_workers_share_the_epoch_drawn_before_forking():
    """A draw in a worker would fail: the only draw is in this process."""
    here = os.getpid()

    def draw(epoch):
        assert os.getpid() == here, "drawn in a worker"
        return unequal(epoch)

    assert epochs_of(2, draw=draw) == epochs_of(0)
