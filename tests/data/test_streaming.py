"""Test that streams give each example once per epoch, for any workers, and resume exactly from any state."""

import gzip
import json
import logging
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from types import SimpleNamespace
from unittest.mock import patch

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cloze.config.data_arguments import DataTrainingArguments, PairArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.chunks import ChunkBuilder
from cloze.data.nsp import PairBuilder
from cloze.data.pairs import IS_NEXT, IS_RANDOM
from cloze.data.samplers import BatchSettings
from cloze.data.streaming import Document, StreamedBatches, StreamedExamples, cut_chunks, redistribute
from cloze.errors import UserError
from cloze.text.corpus import FileCorpus, HubCorpus
from cloze.tokenization.encoding import Encoded, own_encoder
from cloze.tokenization.templates import PairTemplate
from cloze.tokenization.token_cache import tokenize

# A corpus without files, with unchanged lines as examples


@dataclass
class Memory:
    """Shards of documents of lines; counts the characters that were read."""

    shards: list[list[list[str]]]
    name: str = "memory"
    read: int = field(default=0, compare=False)

    @property
    def num_shards(self):
        return len(self.shards)

    def read_shard(self, number):
        for lines in self.shards[number]:
            self.read += sum(map(len, lines))
            yield lines


class Shuffled(list):
    """Return lines in an order drawn by the generator, as for pairs."""

    def __init__(self, lines, rng):
        super().__init__({"text": lines[place]} for place in rng.permutation(len(lines)))
        self.lengths = np.array([len(example["text"]) for example in self], dtype=int)


def make_lines(documents, rng):
    return Shuffled(list(chain.from_iterable(documents)), rng)


def make_in_order(documents, rng):
    return Shuffled(list(chain.from_iterable(documents)), np.random.default_rng(0))


def memory(*counts, lines=3, length=10):
    """Return a corpus of shards with these numbers of documents, with lines such as "s0.d1.l2...."."""
    return Memory(
        [
            [[f"s{shard}.d{number}.l{line}".ljust(length, ".") for line in range(lines)] for number in range(count)]
            for shard, count in enumerate(counts)
        ]
    )


def all_lines(corpus):
    return sorted(line for shard in range(corpus.num_shards) for lines in corpus.read_shard(shard) for line in lines)


def streams(examples, processes=1, workers=0, states=None, batches=None, seed=5):
    """Return the datasets of all processes."""
    batches = batches or BatchSettings("group_by_length", 4)
    return [
        StreamedBatches(examples, batches, np.array, seed, rank, processes, workers, states)
        for rank in range(processes)
    ]


def take(datasets_, steps, workers=0):
    """Return the batches of some steps of all processes, taken from workers in turn, and the states to save."""
    taken, saved = [], []
    for dataset in datasets_:
        states, iterators = list(dataset.states), [dataset.batches_of(worker) for worker in range(max(workers, 1))]
        for step in range(steps):
            turn = step % len(iterators)
            batch, (worker, state) = next(iterators[turn])
            assert worker == turn
            states[turn] = state
            taken.append(batch)
        for iterator in iterators:
            iterator.close()
        turn = steps % len(iterators)
        saved.append(states[turn:] + states[:turn])
    return taken, json.loads(json.dumps(saved))


def loaded(dataset, workers, steps):
    """Return the same for one process, through a data loader."""
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=lambda item: item)
    states, taken = list(dataset.states), []
    items = iter(loader)
    for batch, (worker, state) in islice(items, steps):
        states[worker] = state
        taken.append(batch)
    del items
    turn = steps % max(workers, 1)
    return taken, json.loads(json.dumps([states[turn:] + states[:turn]]))


def texts_of(batches, epoch=None):
    return [example["text"] for batch in batches for example in batch if epoch in (None, example["epoch"])]


def first_epoch_left(states):
    """Return the first epoch that may have examples left."""
    return min(
        min((share["epoch"] for share in state["assignments"]), default=state["epoch"])
        for own in states
        for state in own
    )


def finish(examples, epoch, states=None, processes=1, workers=0, **settings_):
    """Continue until all workers have finished the epoch."""
    taken = []
    for _ in range(1000):
        batches, states = take(streams(examples, processes, workers, states, **settings_), 3, workers)
        taken += batches
        if first_epoch_left(states) > epoch:
            return taken
    raise AssertionError("the epoch has no end")


# Every example once


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("counts", [(40,), (9, 1, 14), (5, 0, 3, 8, 1, 6, 2, 9, 4, 7, 5, 12, 3)])
def test_stream_gives_every_example_once_for_any_workers(counts, processes, workers):
    """Each part has its own files, or all parts read everything."""
    corpus = memory(*counts)
    batches = finish(StreamedExamples(corpus, make_lines, chunk=100), 2, None, processes, workers)
    for epoch in range(3):
        assert sorted(texts_of(batches, epoch)) == all_lines(corpus)
        numbers = [example["example"] for batch in batches for example in batch if example["epoch"] == epoch]
        assert len(set(numbers)) == len(numbers)
        assert 0 <= min(numbers) <= max(numbers) < 2**63
    assert all(len({example["epoch"] for example in batch}) == 1 for batch in batches)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_stream_gives_every_example_once_though_workers_change(data):
    """Interrupt at any step, and resume with any numbers of processes and workers, repeatedly."""
    at_least = data.draw(st.sampled_from([1, 2]))
    counts = data.draw(st.lists(st.integers(at_least, 7), min_size=1, max_size=6))
    corpus = memory(*counts, lines=2)
    limit = data.draw(st.sampled_from([None, None, 1, 7, 1000]))
    # With a limit, all epochs have the same lines.
    make = make_lines if limit is None else make_in_order
    examples = StreamedExamples(corpus, make, at_least, limit, chunk=data.draw(st.integers(1, 120)))
    strategy = data.draw(st.sampled_from(["group_by_length", "random", "sequential"]))
    states, taken = None, []
    for _ in range(data.draw(st.integers(0, 4))):
        batches = BatchSettings(strategy, data.draw(st.integers(1, 5)))
        processes, workers = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
        steps = data.draw(st.integers(0, 7))
        more, states = take(streams(examples, processes, workers, states, batches), steps, workers)
        taken += more
    last = 1 + max((example["epoch"] for batch in taken for example in batch), default=0)
    batches = BatchSettings(strategy, data.draw(st.integers(1, 5)))
    taken += finish(examples, last, states, data.draw(st.integers(1, 2)), data.draw(st.integers(0, 2)), batches=batches)
    for epoch in range(last + 1):
        found = sorted(texts_of(taken, epoch))
        if limit is None:
            assert found == all_lines(corpus)
        else:
            assert len(set(found)) == len(found) == min(limit, len(all_lines(corpus)))


def test_stream_max_samples_are_the_same_for_any_workers():
    """As for prepared text, each epoch takes the first examples of the text, and reads no further."""
    corpus = memory(*[10] * 20, lines=5)
    examples = StreamedExamples(corpus, make_in_order, limit=130, chunk=200)
    expected = None
    for processes, workers in [(1, 0), (1, 3), (2, 2)]:
        batches = finish(examples, 1, None, processes, workers)
        for epoch in (0, 1):
            found = sorted(texts_of(batches, epoch))
            expected = expected or found
            assert found == expected
    # About 6.5 of about 12 chunks of 20 lines are taken.
    assert len(expected) == 130
    assert {line[:3] for line in expected} == {"s0.", "s1.", "s2."}
    corpus.read = 0
    with closing(streams(examples)[0].batches_of(0)) as iterator:
        takewhile_epoch(iterator, 0)
    # 1,300 characters are taken, and the next epoch has begun.
    assert corpus.read < 3500 < 10_000 == sum(map(len, all_lines(corpus)))


FORMATS = {
    "txt": lambda texts: "\n\n".join(texts).encode(),
    "txt.gz": lambda texts: gzip.compress("\n\n".join(texts).encode()),
    "jsonl": lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts).encode(),
    "csv": lambda texts: ("text\n" + "".join(f'"{text}"\n' for text in texts)).encode(),
}


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2), (3, 3)])
def test_stream_divides_files_of_any_format(processes, workers, tmp_path):
    paths = [tmp_path / f"text.{suffix}" for suffix in FORMATS]
    texts = {path: [f"{path.name} document {number}" for number in range(7)] for path in paths}
    for path, content in zip(paths, FORMATS.values(), strict=True):
        path.write_bytes(content(texts[path]))
    corpus = FileCorpus(tuple(paths))
    assert corpus.num_shards == 4
    assert list(corpus.documents()) == [[text] for path in paths for text in texts[path]]
    batches = finish(StreamedExamples(corpus, make_lines, chunk=60), 1, None, processes, workers)
    for epoch in (0, 1):
        assert sorted(texts_of(batches, epoch)) == sorted(chain.from_iterable(texts.values()))


def test_stream_workers_read_their_own_files():
    corpus = memory(*[6] * 8)
    examples = StreamedExamples(corpus, make_lines, chunk=50)
    shards = []
    for dataset in streams(examples, 2, 2):
        for worker in range(2):
            iterator = dataset.batches_of(worker)
            own = takewhile_epoch(iterator, 0)
            iterator.close()
            shards.append({text[:2] for text in texts_of(own)})
    assert [len(own) for own in shards] == [2] * 4
    assert set.union(*shards) == {f"s{number}" for number in range(8)}


def takewhile_epoch(iterator, epoch):
    batches = []
    for batch, _ in iterator:
        if batch[0]["epoch"] != epoch:
            return batches
        batches.append(batch)
    raise AssertionError("a stream has no end")


def test_stream_warns_of_more_workers_than_files(caplog):
    with caplog.at_level(logging.WARNING):
        streams(StreamedExamples(memory(3, 3), make_lines), 1, 2)
        assert caplog.messages == []
        streams(StreamedExamples(memory(3, 3), make_lines), 1, 3)
    assert caplog.messages == [
        "training text has 2 files or shards, fewer than the 3 workers of all processes, and each worker "
        "reads all of it: split it into 3 files, or lower --dataloader_num_workers"
    ]


def test_stream_too_short_for_its_workers_repeats():
    """With one chunk and five workers, each worker has its own epoch, and all have equally many batches."""
    corpus = memory(4)
    batches, _ = take(streams(StreamedExamples(corpus, make_lines), 1, 5), 5 * 3, 5)
    assert [sorted(texts_of(batches, epoch)) for epoch in range(5)] == [all_lines(corpus)] * 5


# The order


def test_stream_order_depends_on_seed_and_epoch_alone():
    corpus = memory(30, 30, 30)
    examples = StreamedExamples(corpus, make_in_order, chunk=300)

    def orders(seed):
        batches = finish(examples, 1, seed=seed)
        return tuple(texts_of(batches, 0)), tuple(texts_of(batches, 1))

    assert len({*orders(0), *orders(1), tuple(all_lines(corpus))}) == 5
    assert orders(0) == orders(0)


def test_stream_shuffles_files_each_epoch():
    batches = finish(StreamedExamples(memory(*[1] * 8), make_lines, chunk=1), 2)
    orders = [tuple(dict.fromkeys(text[:2] for text in texts_of(batches, epoch))) for epoch in range(3)]
    assert len({*orders, tuple(sorted(orders[0]))}) == 4


def test_stream_sequential_keeps_the_order_of_the_text():
    corpus = memory(30, 30)
    examples = StreamedExamples(corpus, in_text_order, chunk=300)
    batches = finish(examples, 1, batches=BatchSettings("sequential", 4))
    expected = [line for shard in range(2) for lines in corpus.read_shard(shard) for line in lines]
    assert texts_of(batches, 0) == texts_of(batches, 1) == expected


def in_text_order(documents, rng):
    examples = make_lines(documents, rng)
    examples.sort(key=lambda example: [line for lines in documents for line in lines].index(example["text"]))
    return examples


def test_stream_batches_of_a_chunk_have_about_equal_size():
    """No chunk leaves a batch of one example, which would have the weight of a full batch."""
    batches, _ = take(streams(StreamedExamples(memory(11, lines=3), make_lines, chunk=10**6)), 9)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 4, 4, 4, 1]
    batches, _ = take(streams(StreamedExamples(memory(7, lines=3), make_lines), batches=BatchSettings("random", 10)), 3)
    assert [len(batch) for batch in batches] == [7, 7, 7]


def test_stream_keeps_the_token_budget_and_groups_by_length():
    rng = np.random.default_rng(0)
    lines = [f"{number}".ljust(int(rng.integers(5, 60)), "x") for number in range(400)]
    examples = StreamedExamples(Memory([[[line] for line in lines]]), make_lines, chunk=5000)
    batches = finish(examples, 0, batches=BatchSettings("group_by_length", 1, max_tokens=240))
    sizes = [[len(text) for text in texts_of([batch])] for batch in batches if batch[0]["epoch"] == 0]
    assert sorted(chain.from_iterable(sizes)) == sorted(map(len, lines))
    assert max(len(size) * max(size) for size in sizes) <= 240
    padded = sum(len(size) * max(size) for size in sizes)
    assert sum(map(sum, sizes)) > 0.9 * padded


# Resuming


@pytest.mark.parametrize("counts", [(40,), (9, 2, 14, 5, 6, 7, 8)])
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2)])
def test_stream_resumes_exactly_from_every_state(counts, processes, workers):
    examples = StreamedExamples(memory(*counts), make_lines, chunk=200)
    for dataset in streams(examples, processes, workers):
        for worker in range(max(workers, 1)):
            with closing(dataset.batches_of(worker)) as iterator:
                whole = list(islice(iterator, 40))
            for place, (_, (_, state)) in enumerate(whole[:25]):
                again = streams(examples, processes, workers)[0]
                again.states[0] = json.loads(json.dumps(state))
                with closing(again.batches_of(0)) as iterator:
                    rest = [(batch, state) for batch, (_, state) in islice(iterator, 15)]
                assert rest == [(batch, state) for batch, (_, state) in whole[place + 1 : place + 16]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [1, 6, 13])
def test_stream_data_loader_resumes_exactly(workers, steps):
    """Also if one worker has given no batch yet, and after two interruptions."""
    examples = StreamedExamples(memory(9, 2, 14, 5), make_lines, chunk=200)
    whole, _ = loaded(*streams(examples, workers=workers), workers, 40)
    taken, states = loaded(*streams(examples, workers=workers), workers, steps)
    more, states = loaded(*streams(examples, workers=workers, states=states), workers, 8)
    rest, _ = loaded(*streams(examples, workers=workers, states=states), workers, 32 - steps)
    assert taken + more + rest == whole
    assert any(example["epoch"] > 0 for example in whole[-1])


def test_stream_resume_does_not_tokenize_skipped_chunks():
    made = []

    def make(documents, rng):
        made.append(documents[0][0])
        return make_lines(documents, rng)

    examples = StreamedExamples(memory(60), make, chunk=300)
    _, states = take(streams(examples), 25)
    assert states[0][0]["assignments"][0]["chunk"] == 3
    begun = made[states[0][0]["assignments"][0]["chunk"]]
    made.clear()
    take(streams(examples, states=states), 1)
    assert made[0] == begun


def test_stream_shards_are_redistributed_when_workers_change():
    """One of three workers is an epoch behind, and one is in the middle of a chunk."""
    share = {"epoch": 1, "part": 2, "parts": 3, "position": 4, "document": 5, "chunk": 6, "seen": 7, "batches": 8}
    share["settings"] = {"batch_size": 4}
    behind = {"worker": 0, "assignments": [], "epoch": 1}
    states = [
        [behind],
        [{"worker": 1, "assignments": [share], "epoch": 2}],
        [{"worker": 2, "assignments": [], "epoch": 2}],
    ]
    fresh = share | {"part": 1, "position": 0, "document": 0, "chunk": 0, "seen": 0, "batches": 0, "settings": None}
    assert redistribute(states, 1, 2) == [
        [{"worker": 0, "assignments": [fresh], "epoch": 2}, {"worker": 1, "assignments": [share], "epoch": 2}]
    ]
    assert redistribute(states, 3, 1) == redistribute(states, 3, 0) == states
    assert redistribute(None, 2, 2)[1] == [
        {"worker": 2, "assignments": [], "epoch": 0},
        {"worker": 3, "assignments": [], "epoch": 0},
    ]


# Chunks


def places(counts_and_sizes):
    return [Document(0, 0, number, ["x" * size]) for number, size in enumerate(counts_and_sizes)]


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 100), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_chunks_hold_all_documents_in_order_and_none_is_small(sizes, characters, at_least):
    documents = places(sizes)
    chunks = list(cut_chunks(iter(documents), characters, at_least))
    assert list(chain.from_iterable(chunks)) == documents
    assert all(chunks)
    if len(chunks) > 1:
        assert min(map(len, chunks)) >= at_least
        totals = [sum(len(document.lines[0]) for document in chunk) for chunk in chunks]
        assert min(totals[:-1]) >= characters
        assert totals[-1] >= characters / 2
    # From the begin of any chunk, the rest is cut in the same way.
    for number, chunk in enumerate(chunks):
        assert list(cut_chunks(iter(documents[chunk[0].number :]), characters, at_least)) == chunks[number:]


def test_small_remainder_joins_the_chunk_before():
    def cut(*sizes, at_least=1):
        chunks = cut_chunks(iter(places(sizes)), 10, at_least)
        return [[len(document.lines[0]) for document in chunk] for chunk in chunks]

    assert cut(6, 6, 6, 6, 4) == [[6, 6], [6, 6, 4]]
    assert cut(6, 6, 6, 6, 5) == [[6, 6], [6, 6], [5]]
    assert cut(6, 6, 6, 6, 5, at_least=2) == [[6, 6], [6, 6, 5]]
    assert cut(20, 1, 20, 20, at_least=2) == [[20, 1], [20, 20]]
    assert cut(3) == [[3]]
    assert cut() == []


def test_stream_reads_only_a_few_chunks_ahead():
    corpus = memory(10_000)
    dataset = streams(StreamedExamples(corpus, make_lines, chunk=1000))[0]
    with closing(dataset.batches_of(0)) as iterator:
        for step in range(200):
            next(iterator)
            # 34 documents per chunk: one chunk in use (26 batches), one in preparation, and the text of one more.
            assert corpus.read <= (step // 26 + 3) * 34 * 30


def test_stream_shard_of_one_document_is_an_error_for_pairs():
    examples = StreamedExamples(memory(1, 5), make_lines, at_least=2)
    with pytest.raises(UserError, match=r"a worker's files have only one document, .*: lower --dataloader_num_workers"):
        take(streams(examples, 2), 1)


# Blocks, lines and pairs


def numbers(texts):
    """Return a tokenizer of texts such as "12 13 14"."""
    rows = [np.array(text.split(), dtype=np.uint32) for text in texts]
    return Encoded(np.concatenate([np.empty(0, np.uint32), *rows]), None, np.array([len(row) for row in rows]))


def number_corpus(documents=60, sentences=5):
    """Token ids are 100,000 + 1,000 * document + 10 * sentence + position, which identifies their source."""
    first = 100_000
    rows = [
        [
            " ".join(str(first + 1000 * d + 10 * s + t) for t in range(2 + (d + s) % 5))
            for s in range(1 + (d * 7) % sentences)
        ]
        for d in range(documents)
    ]
    return Memory([rows[0::3], rows[1::3], rows[2::3]])


def pair_builder(strategy: str) -> PairBuilder:
    """Return a builder of pairs of 30 numbers between [1] [2] [2]."""
    template = PairTemplate((1,), (2,), (2,))
    with patch("cloze.data.nsp.pair_template_of", lambda tokenizer: template):
        return PairBuilder(None, 34, PairArguments(pair_strategy=strategy, sentence_per_line=True), seed=0)


@pytest.mark.parametrize("strategy", ["segment", "sentence"])
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2)])
def test_stream_pairs_have_the_right_labels(strategy, processes, workers):
    """Contract: 0 = B follows A, 1 = B is from another document."""
    make = ChunkBuilder("", pair_builder(strategy), numbers)
    examples = StreamedExamples(number_corpus(), make, at_least=2, chunk=700)
    batches = finish(examples, 1, None, processes, workers)
    pairs = [pair for batch in batches for pair in batch if pair["epoch"] < 2]
    labels = Counter()
    for pair in pairs:
        ids, types = pair["input_ids"], pair["token_type_ids"]
        a, b = ids[(types == 0) & (ids > 2)] - 100_000, ids[(types == 1) & (ids > 2)] - 100_000
        documents = {*(a // 1000)}, {*(b // 1000)}
        assert len(documents[0]) == len(documents[1]) == 1
        label = pair["next_sentence_label"]
        labels[label] += 1
        if label == IS_NEXT:
            assert documents[0] == documents[1]
            assert a[-1] < b[0]
            if strategy == "sentence":
                assert b[0] // 10 == a[-1] // 10 + 1
        else:
            assert documents[0] != documents[1]
    assert 0.35 < labels[IS_RANDOM] / len(pairs) < 0.65
    epochs = [sorted(tuple(p["input_ids"]) for p in pairs if p["epoch"] == epoch) for epoch in (0, 1)]
    assert epochs[0] != epochs[1], "drawn anew"


def test_stream_chunk_with_one_nonempty_document_gives_no_pairs():
    """For example, the tokenizer does not know the script of the other documents."""
    for documents in ([["7 8", "9"], [" "]], [[" "], [" "]]):
        for strategy in ("segment", "sentence"):
            make = ChunkBuilder("", pair_builder(strategy), numbers)
            assert len(make(documents, np.random.default_rng(0))) == 0
    corpus = Memory([[["7 8", "9"], [" "], ["17 18", "19"], ["27 28", "29"]]])
    examples = StreamedExamples(corpus, make, at_least=2, chunk=3)
    assert min(example["input_ids"].max() for batch in finish(examples, 1) for example in batch) >= 17


@pytest.mark.parametrize("kind", ["blocks", "lines"])
@pytest.mark.parametrize("word_starts", [False, True])
def test_stream_blocks_hold_every_token_of_their_chunk(kind, word_starts, texts, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    prefix, sep = (tokenizer.cls_token_id,), (tokenizer.sep_token_id,)
    arguments = DataTrainingArguments(line_by_line=kind == "lines", whole_word_mask=word_starts)
    encoder = own_encoder(tokenizer, word_starts)
    make = ChunkBuilder("", BlockBuilder(tokenizer, 32, arguments), encoder)
    corpus = Memory([[[text] for text in texts[part::3]] for part in range(3)])
    batches = finish(StreamedExamples(corpus, make, chunk=5000), 0, None, 1, 2)
    examples = [example for batch in batches for example in batch if example["epoch"] == 0]
    assert max(len(example["input_ids"]) for example in examples) == 32
    found = Counter(np.concatenate([example["input_ids"] for example in examples]).tolist())
    expected = Counter(encoder(texts).ids.tolist())
    assert {key: count for key, count in found.items() if key not in prefix + sep} == expected
    assert all(("word_starts" in example) == word_starts for example in examples)


def test_stream_warns_of_a_mostly_unknown_chunk(tokenizers, caplog):
    tokenizer = tokenizers["wordpiece"]
    encoder, unknown = own_encoder(tokenizer, False), tokenizer.unk_token_id
    unchanged = SimpleNamespace(granularity="line", build_chunk=lambda split, rng: split)
    make = ChunkBuilder("a.txt", unchanged, encoder, unknown=unknown)
    assert make([["\U00012000 \U00012000 the moon ."]], None).corpus.num_unknown == 2
    assert not caplog.text
    make([["\U00012000 \U00012000 moon"], ["\U00012000"]], None)
    assert "a.txt: 75.0 % of the tokens in 2 consecutive documents are unknown to the tokenizer: check" in caplog.text


def test_stream_tokenizes_like_a_prepared_corpus(tokenizers):
    encoder = own_encoder(tokenizers["wordpiece"], True)
    corpus = tokenize([["The tide is low.", "It will turn."], [" "], ["The moon!"]], "line", encoder)
    assert corpus.counts().tolist() == [2, 1, 1]
    lengths = encoder(["The tide is low.", "It will turn.", " ", "The moon!"]).lengths
    assert np.diff(corpus.units).tolist() == lengths.tolist()
    assert len(corpus.word_starts) == len(corpus.tokens) == lengths.sum()


# Streams of the datasets library


def rows_of_shards(shards):
    for shard in shards:
        for number in range(111):
            yield {"id": number, "text": f"{shard} {number}"}


@pytest.mark.parametrize("shards", [["a"], ["a", "b", "c", "d", "e"]], ids=["one shard", "five shards"])
@pytest.mark.parametrize("workers", [0, 2])
def test_stream_divides_hub_rows_over_workers(shards, workers):
    """The library would split the rows again, because it gives each data-loader worker its own part."""
    rows = datasets.IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": shards})
    corpus = HubCorpus("hub", rows)
    assert corpus.num_shards == len(shards)
    expected = sorted(f"{shard} {number}" for shard in shards for number in range(111))
    assert sorted(line for (line,) in corpus.documents()) == expected
    examples = StreamedExamples(corpus, make_lines, chunk=150)
    batches, states = loaded(*streams(examples, workers=workers), workers, 27)
    assert max(share["document"] for state in states[0] for share in state["assignments"]) > 0
    rest, _ = loaded(*streams(examples, workers=workers, states=states), workers, 400)
    for epoch in (0, 1):
        assert sorted(texts_of(batches + rest, epoch)) == expected


def test_stream_error_names_hub_row_and_shard():
    def rows(shards):
        for shard in shards:
            yield {"text": shard}

    stream = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": ["a", 3]})
    with pytest.raises(UserError, match="hub, shard 1, row 0: column 'text' holds int"):
        list(HubCorpus("hub", stream).documents())
