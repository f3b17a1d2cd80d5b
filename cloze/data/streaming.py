"""Make training examples while the text is read, in bounded memory.

A chunk is a run of consecutive documents, used like a small prepared corpus: batches are drawn from all its examples.
Shard assignments determine which chunks a data-loader worker makes.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from cloze.data.samplers import BatchSettings, Examples, draw_batches
from cloze.errors import UserError
from cloze.text.corpus import Corpus

logger = logging.getLogger(__name__)

# Characters in a chunk, about half a million tokens: thousands of examples to shuffle and to group by length, made in
# a second or two. A worker holds one chunk in use, one in preparation, and the text of the next.
CHUNK_CHARS = 2_000_000

Item = TypeVar("Item")

# State of a worker, JSON-serializable: its number among the workers of all processes, its unfinished assignments, and
# the next epoch to take an assignment from: {"worker": 0, "assignments": [{"epoch": 2, ...}], "epoch": 3}.
State = dict[str, Any]


@dataclass(frozen=True)
class ShardAssignment:
    """Assign part number ``part`` of ``parts`` of an epoch to a worker, with the position to resume at.

    A part is a set of shards of the text, such as files, or every n-th chunk if there are fewer shards than parts.

    Attributes:
        position: index, in the order of reading, of the shard where the next chunk begins.
        document: number of the chunk's first document in that shard.
        chunk: number of the chunk in the order of reading, including chunks of other parts.
        seen: number of examples in the chunks before.
        batches: number of the chunk's batches already taken.
        settings: the fields of the BatchSettings that the chunk's batches are drawn with.
    """

    epoch: int
    part: int
    parts: int
    position: int = 0
    document: int = 0
    chunk: int = 0
    seen: int = 0
    batches: int = 0
    settings: dict[str, Any] | None = None

    @classmethod
    def of(cls, worker: int, workers: int, epoch: int) -> "ShardAssignment":
        """Return a worker's assignment; parts rotate between epochs, so each worker gets some of a short text."""
        return cls(epoch, (worker + epoch) % workers, workers)


def redistribute(states: list[list[State]] | None, processes: int, workers: int) -> list[list[State]]:
    """Return the initial state of each worker of each process, [processes, workers].

    Without ``states``, workers start from the beginning; with ``states`` of the same shape, each resumes its own.
    Otherwise the unfinished assignments are distributed in turn, and all workers continue with the first epoch that no
    worker has begun.
    """
    workers = max(workers, 1)
    if states is not None and [len(own) for own in states] == [workers] * processes:
        return states
    before = [state for own in states or [] for state in own]
    epoch = max((state["epoch"] for state in before), default=0)
    left = []
    for state in before:
        behind = [ShardAssignment.of(state["worker"], len(before), late) for late in range(state["epoch"], epoch)]
        left += [*state["assignments"], *map(asdict, behind)]
    left.sort(key=lambda assignment: assignment["epoch"])
    count = processes * workers
    initial = [{"worker": number, "assignments": left[number::count], "epoch": epoch} for number in range(count)]
    return [initial[first : first + workers] for first in range(0, count, workers)]


@dataclass(frozen=True)
class StreamedExamples:
    """Configure a stream of examples.

    Attributes:
        make: returns the examples of documents, each a list of lines, given a random generator.
        at_least: smallest number of documents that ``make`` accepts.
        limit: use only the first ``limit`` examples of each epoch, in the order of the text.
        chunk: characters in a chunk.
    """

    corpus: Corpus
    make: Callable[[list[list[str]], np.random.Generator], Examples]
    at_least: int = 1
    limit: int | None = None
    chunk: int = CHUNK_CHARS

    @property
    def size(self) -> list[int]:
        """Return the number of shards and of bytes of the text, which identify it."""
        return [self.corpus.num_shards, self.corpus.num_bytes]


class Document(NamedTuple):
    """Hold a document's lines, its number in its shard, and the shard's position in the order of the assignment."""

    position: int
    shard: int
    number: int
    lines: list[str]


@dataclass(frozen=True)
class DrawnChunk:
    """Hold a chunk's examples, the number of the first one in the whole text, and the result of ``draw_batches``.

    The assignment gives the chunk's position, and the number of its batches already taken.
    """

    assignment: ShardAssignment
    examples: Examples
    first: int
    order: np.ndarray
    spans: np.ndarray

    def batch(self, number: int) -> list[dict]:
        """Return the examples of a batch."""
        positions = self.order[slice(*self.spans[number])].tolist()
        epoch = self.assignment.epoch
        return [self.examples[position] | {"example": self.first + position, "epoch": epoch} for position in positions]


class StreamedBatches(IterableDataset):
    """Yield batches without end: each example once per epoch, in an order drawn from (seed, epoch).

    Each item is a batch, a list of examples with "epoch" and "example", and ``(worker, state)``: the number of the
    data-loader worker in its process, and its state after this batch.

    Args:
        examples: the stream.
        settings: how batches are drawn; accumulation, processes and drop_last are ignored.
        padded_lengths: maps the lengths of longest examples to the padded lengths of their batches.
        seed: of the order, and of pairs.
        rank: number of this process.
        processes: number of processes.
        workers: data-loader workers of each process.
        states: to resume from, as for ``redistribute``.

    Attributes:
        states: initial state of each worker of this process. To save the stream, save each worker's newest state,
            starting with the worker whose turn is next, since workers resume in this order.
    """

    def __init__(
        self,
        examples: StreamedExamples,
        settings: BatchSettings,
        padded_lengths: Callable[[np.ndarray], np.ndarray],
        seed: int,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
        states: list[list[State]] | None = None,
    ):
        self.examples, self.padded_lengths, self.seed = examples, padded_lengths, seed
        self.settings = replace(settings, accumulation=1, processes=1, drop_last=False)
        self.parts = processes * max(workers, 1)
        self.states = redistribute(states, processes, workers)[rank]
        shards = examples.corpus.num_shards
        if shards < self.parts and examples.limit is None:
            logger.warning(
                "training text has %d files or shards, fewer than the %d workers of all processes, and each worker "
                "reads all of it: split it into %d files, or lower --dataloader_num_workers",
                shards,
                self.parts,
                self.parts,
            )

    def __iter__(self) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        """Yield the batches of the data-loader worker that iterates."""
        info = get_worker_info()
        return self.batches_of(0 if info is None else info.id)

    def batches_of(self, worker: int) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        """Yield the batches of one worker of this process, each with its number and its state after the batch."""
        begin = self.states[worker]
        for chunk, assignments, epoch in _prefetch(self._chunks_from(begin)):
            for number in range(chunk.assignment.batches, len(chunk.spans)):
                left = [replace(chunk.assignment, batches=number + 1), *assignments]
                state = {"worker": begin["worker"], "epoch": epoch, "assignments": list(map(asdict, left))}
                yield chunk.batch(number), (worker, state)

    def _chunks_from(self, state: State) -> Iterator[tuple[DrawnChunk, list[ShardAssignment], int]]:
        """Yield a worker's chunks without end, each with the assignments after its own, and the next epoch."""
        assignments, epoch = [ShardAssignment(**each) for each in state["assignments"]], state["epoch"]
        while True:
            if not assignments:
                assignments, epoch = [ShardAssignment.of(state["worker"], self.parts, epoch)], epoch + 1
            assignment, *assignments = assignments
            for chunk in self._chunks_of(assignment):
                yield chunk, assignments, epoch

    def _chunks_of(self, assignment: ShardAssignment) -> Iterator[DrawnChunk]:
        """Yield the chunks of an assignment; skip chunks without an example."""
        source, seen = self.examples, assignment.seen
        divided = self._divides_shards(assignment)
        chunks = cut_chunks(self._documents(assignment), source.chunk, source.at_least)
        for number, chunk in enumerate(chunks, assignment.chunk):
            own = divided or number % assignment.parts == assignment.part
            if not own and source.limit is None:
                continue
            if len(chunk) < source.at_least:
                raise UserError(
                    f"{source.corpus.name}: a worker's files have only one document, but a random sentence comes from "
                    "another document: lower --dataloader_num_workers, put more documents into each file, or drop "
                    "--streaming"
                )
            first = chunk[0]
            rng = np.random.default_rng((self.seed, assignment.epoch, first.shard, first.number))
            examples = source.make([document.lines for document in chunk], rng)
            lengths = examples.lengths[: None if source.limit is None else source.limit - seen]
            if own and len(lengths):
                taken = assignment.batches if number == assignment.chunk else 0
                # A partly taken chunk keeps the batches that were drawn before.
                settings = BatchSettings(**assignment.settings) if taken and assignment.settings else self.settings
                begin = replace(assignment, position=first.position, document=first.number, chunk=number, seen=seen)
                begin = replace(begin, batches=taken, settings=asdict(settings))
                yield DrawnChunk(begin, examples, _first_number(first), *self._draw(lengths, settings, rng))
            seen += len(lengths)
            if seen == source.limit:
                return

    def _draw(
        self, lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of a chunk's examples, and the spans of its batches, of about equal size.

        Otherwise each chunk would end with a small batch, perhaps of one example, with the weight of a full batch.
        """
        count = -(-len(lengths) // settings.batch_size)
        return draw_batches(self.padded_lengths(lengths), replace(settings, batch_size=-(-len(lengths) // count)), rng)

    def _divides_shards(self, assignment: ShardAssignment) -> bool:
        """Return whether each part has its own shards; with a limit, every worker reads the text from its start."""
        return self.examples.limit is None and self.examples.corpus.num_shards >= assignment.parts

    def _documents(self, assignment: ShardAssignment) -> Iterator[Document]:
        """Yield the documents that the assignment reads, from its position on."""
        corpus = self.examples.corpus
        order = list(range(corpus.num_shards))
        if self.settings.strategy != "sequential" and self.examples.limit is None:
            order = np.random.default_rng((self.seed, assignment.epoch)).permutation(order).tolist()
        if self._divides_shards(assignment):
            order = order[assignment.part :: assignment.parts]
        for position, shard in enumerate(order[assignment.position :], assignment.position):
            begin = assignment.document if position == assignment.position else 0
            for number, lines in enumerate(islice(corpus.read_shard(shard), begin, None), begin):
                yield Document(position, shard, number, lines)


def cut_chunks(documents: Iterator[Document], characters: int, at_least: int) -> Iterator[list[Document]]:
    """Yield chunks of at least ``at_least`` documents and ``characters`` characters; the last takes a small rest."""
    before: list[Document] = []
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document.lines))
        if size >= characters and len(chunk) >= at_least:
            if before:
                yield before
            before, chunk, size = chunk, [], 0
    if before and (size < characters / 2 or len(chunk) < at_least):
        before, chunk = before + chunk, []
    yield from filter(None, (before, chunk))


def _first_number(document: Document) -> int:
    """Return the number, below 2**63, of the first example in the chunk that begins with the document.

    Masks depend on it. Numbers do not overlap for up to 2**20 examples in a chunk and 2**28 documents in a shard.
    """
    return ((document.shard << 48) + (document.number << 20)) % 2**63


def _prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items; a thread prepares the next item while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
