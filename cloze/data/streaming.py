"""Make training examples while the text is read, in bounded memory.

A chunk is some documents in a row, enough to be a small corpus: its examples are made as those of a prepared corpus,
and its batches are drawn from all of them. Which chunks a worker makes is said by its shard assignments.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from cloze.data.samplers import BatchSettings, draw_batches
from cloze.errors import UserError
from cloze.text.corpus import Corpus

logger = logging.getLogger(__name__)

# Characters in a chunk, about half a million tokens: thousands of examples to shuffle and to group by length, made in
# a second or two. A worker has one chunk in use, one being made, and the text of the one after.
CHUNK_CHARS = 2_000_000

Item = TypeVar("Item")

# Of a worker, fit for JSON: its number among the workers of all processes, its assignments that are not done, as
# dictionaries, and the next epoch of which it takes one: {"worker": 0, "assignments": [{"epoch": 2, ...}], "epoch": 3}.
State = dict[str, Any]


@dataclass(frozen=True)
class ShardAssignment:
    """Name part number ``part`` of ``parts`` of an epoch, and where in it to resume.

    A part is some shards of the text, such as files, or, where those are too few, every n-th chunk.

    Attributes:
        position: where the shard in which the next chunk begins stands in the order of what is read.
        document: number of the chunk's first document in that shard.
        chunk: number of the chunk in what is read, those of other parts counted.
        seen: examples made of the chunks before.
        batches: how many of the chunk's are taken, and ``settings``, how they are drawn (samplers.BatchSettings).
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
        """Return that of one of the workers of all processes.

        The parts go round, so that where the text is too short for all, each worker has some in one epoch or another.
        """
        return cls(epoch, (worker + epoch) % workers, workers)


def redistribute(states: list[list[State]] | None, processes: int, workers: int) -> list[list[State]]:
    """Return what each worker of each process begins with, [processes, workers]: from the start, or after ``states``.

    If they are as many as before, each takes back its own. Otherwise the assignments that are left are distributed in
    turn, and all continue with the first epoch of which no assignment was begun.
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
    dealt = [{"worker": number, "assignments": left[number::count], "epoch": epoch} for number in range(count)]
    return [dealt[first : first + workers] for first in range(0, count, workers)]


@dataclass(frozen=True)
class StreamedExamples:
    """Say what to stream.

    Attributes:
        corpus: the text.
        make: of some documents, each a list of lines, and a generator, the examples: a sequence with ``lengths``.
        at_least: documents that ``make`` needs.
        limit: take the first ``limit`` examples of each epoch, in the order of the text.
        chunk: characters in a chunk.
    """

    corpus: Corpus
    make: Callable[[list[list[str]], np.random.Generator], Sequence]
    at_least: int = 1
    limit: int | None = None
    chunk: int = CHUNK_CHARS

    @property
    def size(self) -> list[int]:
        """Return shards and bytes of the text, by which it is known again."""
        return [self.corpus.num_shards, self.corpus.num_bytes]


class Document(NamedTuple):
    """Hold a document's lines, and where it stands: ``shard`` is at ``position`` in the order of its assignment."""

    position: int
    shard: int
    number: int
    lines: list[str]


@dataclass(frozen=True)
class DrawnChunk:
    """Hold a chunk's batches: ``order`` and ``spans`` of ``draw_batches``, and the ``first`` example's number among all
    of the text. ``assignment`` is where the chunk begins, and how many of its batches are taken."""

    assignment: ShardAssignment
    examples: Sequence
    first: int
    order: np.ndarray
    spans: np.ndarray

    def batch(self, number: int) -> list[dict]:
        positions = self.order[slice(*self.spans[number])].tolist()
        epoch = self.assignment.epoch
        return [self.examples[position] | {"example": self.first + position, "epoch": epoch} for position in positions]


class StreamedBatches(IterableDataset):
    """Give batches without an end: every example of an epoch once, in an order drawn from (seed, epoch).

    Each item is a batch, a list of examples with their "epoch" and "example", and ``(worker, state)``: the number of
    the data-loader worker in its process, and where it goes on after this batch, fit for JSON.

    Args:
        examples: what to stream.
        settings: how batches are made; those of one process do not depend on accumulation and processes.
        padded_lengths: of lengths, how long a batch is padded whose longest example is of that length.
        seed: of the order, and of pairs.
        rank: the number of this process, of ``processes``.
        workers: data-loader workers of a process.
        states: where to go on: a list for each process of the states of its workers. That of ``redistribute``.

    Attributes:
        states: where each worker of this process begins. To save the stream, replace each by the worker's newest state,
            and begin with the worker whose turn is next: as many workers as before take them in this order.
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
                "SHARDS: the training text is in %d files or shards, fewer than the %d workers of all processes, so "
                "that each reads the whole: split it into %d files, or lower --dataloader_num_workers",
                shards,
                self.parts,
                self.parts,
            )

    def __iter__(self) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        info = get_worker_info()
        return self.batches_of(0 if info is None else info.id)

    def batches_of(self, worker: int) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        begin = self.states[worker]
        for chunk, assignments, epoch in _prefetch(self._chunks_from(begin)):
            for number in range(chunk.assignment.batches, len(chunk.spans)):
                left = [replace(chunk.assignment, batches=number + 1), *assignments]
                state = {"worker": begin["worker"], "epoch": epoch, "assignments": list(map(asdict, left))}
                yield chunk.batch(number), (worker, state)

    def _chunks_from(self, state: State) -> Iterator[tuple[DrawnChunk, list[ShardAssignment], int]]:
        """Yield a worker's chunks without an end, the assignments left after the chunk's own, and the next epoch."""
        assignments, epoch = [ShardAssignment(**each) for each in state["assignments"]], state["epoch"]
        while True:
            if not assignments:
                assignments, epoch = [ShardAssignment.of(state["worker"], self.parts, epoch)], epoch + 1
            assignment, *assignments = assignments
            for chunk in self._chunks_of(assignment):
                yield chunk, assignments, epoch

    def _chunks_of(self, assignment: ShardAssignment) -> Iterator[DrawnChunk]:
        """Yield an assignment's chunks, those without an example left out."""
        source, seen = self.examples, assignment.seen
        divided = self._divides_shards(assignment)
        chunks = cut_chunks(self._documents(assignment), source.chunk, source.at_least)
        for number, chunk in enumerate(chunks, assignment.chunk):
            own = divided or number % assignment.parts == assignment.part
            if not own and source.limit is None:
                continue
            if len(chunk) < source.at_least:
                raise UserError(
                    f"{source.corpus.name}: a random sentence comes from another document, and a worker's part of the "
                    "files has but one: lower --dataloader_num_workers, put more documents into a file, or drop "
                    "--streaming"
                )
            first = chunk[0]
            rng = np.random.default_rng((self.seed, assignment.epoch, first.shard, first.number))
            examples = source.make([document.lines for document in chunk], rng)
            lengths = examples.lengths[: None if source.limit is None else source.limit - seen]
            if own and len(lengths):
                taken = assignment.batches if number == assignment.chunk else 0
                # A chunk that is partly taken goes on as it was drawn.
                settings = BatchSettings(**assignment.settings) if taken else self.settings
                position = replace(
                    assignment,
                    position=first.position,
                    document=first.number,
                    chunk=number,
                    seen=seen,
                    batches=taken,
                    settings=asdict(settings),
                )
                yield DrawnChunk(position, examples, _first_number(first), *self._draw(lengths, settings, rng))
            seen += len(lengths)
            if seen == source.limit:
                return

    def _draw(
        self, lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of a chunk's examples, and its batches, which are of about the same number of examples.

        Else each chunk would leave a rest, a batch of perhaps one example that weighs as much as any other.
        """
        count = -(-len(lengths) // settings.batch_size)
        return draw_batches(self.padded_lengths(lengths), replace(settings, batch_size=-(-len(lengths) // count)), rng)

    def _divides_shards(self, assignment: ShardAssignment) -> bool:
        """Return whether each part has shards of its own: none has where the first N examples of the text are taken."""
        return self.examples.limit is None and self.examples.corpus.num_shards >= assignment.parts

    def _documents(self, assignment: ShardAssignment) -> Iterator[Document]:
        """Yield the documents that the assignment has to read, from where it resumes."""
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
    """Yield documents in a row, ``at_least`` N, of N ``characters`` or more; a small rest joins the last chunk."""
    before, chunk, size = [], [], 0
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
    """Return the number of the first example of the chunk that begins with the document, below 2**63.

    Masks depend on it, and the others' follow it. A chunk has room for a million examples, a shard for 2**28 documents.
    """
    return ((document.shard << 48) + (document.number << 20)) % 2**63


def _prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items, each made in a thread while the one before is in use, so that training need not wait for it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
