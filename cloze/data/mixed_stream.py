"""Mix streams in given shares of the tokens: each batch comes from the source that is furthest behind its share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from cloze.data.samplers import BatchSettings
from cloze.data.streaming import State, StreamedBatches, StreamedExamples


@dataclass(frozen=True)
class MixedStream:
    """Configure a mixture of streams.

    Attributes:
        sources: the stream of each source, by name.
        shares: of each source in the tokens, by name.
    """

    sources: Mapping[str, StreamedExamples]
    shares: Mapping[str, float]

    @property
    def size(self) -> list[int]:
        """Return the number of shards and of bytes of all sources, which identify the text."""
        return [sum(counts) for counts in zip(*(source.size for source in self.sources.values()), strict=True)]

    def describe(self) -> str:
        """Return the shares of the sources."""
        return describe_shares(self.shares)


class MixedBatches(IterableDataset):
    """Yield batches without end, each from one source; a source that is used up begins a new epoch of its own.

    Items and arguments are those of ``StreamedBatches``. The state of a worker has the state of each source, and the
    tokens taken from it: ``{"sources": {"law": {...}, "general": {...}}, "taken": {"law": 81, "general": 20}}``.

    Attributes:
        states: initial state of each worker of this process, to be saved as those of ``StreamedBatches``.
    """

    def __init__(
        self,
        examples: MixedStream,
        settings: BatchSettings,
        padded_lengths: Callable[[np.ndarray], np.ndarray],
        seed: int,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
        states: list[list[State]] | None = None,
    ):
        self.shares = examples.shares
        self.sources: dict[str, StreamedBatches] = {}
        for name, source in examples.sources.items():
            before = states and [[state["sources"][name] for state in own] for own in states]
            common = settings, padded_lengths, seed, rank, processes, workers
            self.sources[name] = StreamedBatches(source, *common, before)
        # Masks depend on an example's number, which contains its shard: number the shards of all sources.
        shards = np.cumsum([0, *(source.corpus.num_shards for source in examples.sources.values())]).tolist()
        self.first_numbers = dict(zip(self.sources, (first << 48 for first in shards), strict=False))
        taken = self._redistribute_tokens(states or [], processes, max(workers, 1))[rank]
        self.states: list[dict[str, Any]] = [
            {"sources": {name: batches.states[worker] for name, batches in self.sources.items()}, "taken": counts}
            for worker, counts in enumerate(taken)
        ]

    def _redistribute_tokens(
        self, states: list[list[State]], processes: int, workers: int
    ) -> list[list[dict[str, int]]]:
        """Return the tokens taken by each worker of each process; of another number, the first one gets the sum."""
        if [len(own) for own in states] == [workers] * processes:
            return [[state["taken"] for state in own] for own in states]
        taken = [[dict.fromkeys(self.sources, 0) for _ in range(workers)] for _ in range(processes)]
        taken[0][0] = tokens_taken(states) or taken[0][0]
        return taken

    def __iter__(self) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        """Yield the batches of the data-loader worker that iterates."""
        info = get_worker_info()
        return self.batches_of(0 if info is None else info.id)

    def batches_of(self, worker: int) -> Iterator[tuple[list[dict], tuple[int, State]]]:
        """Yield the batches of one worker of this process, each with its number and its state after the batch."""
        states, taken = dict(self.states[worker]["sources"]), dict(self.states[worker]["taken"])
        batches = {name: source.batches_of(worker) for name, source in self.sources.items()}
        while True:
            total = sum(taken.values())
            name = max(self.shares, key=lambda name: self.shares[name] * total - taken[name])
            examples, (_, states[name]) = next(batches[name])
            taken[name] += sum(len(example["input_ids"]) for example in examples)
            first = self.first_numbers[name]
            numbered = [example | {"example": (example["example"] + first) % 2**63} for example in examples]
            yield numbered, (worker, {"sources": dict(states), "taken": dict(taken)})


def describe_shares(shares: Mapping[str, float]) -> str:
    """Return shares of the tokens in one line: "law 80.0%, general 20.0% of the tokens"."""
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) + " of the tokens"


def tokens_taken(states: Sequence[Sequence[State]]) -> dict[str, int]:
    """Return the tokens that the workers of all processes took from each source, by name; empty without states."""
    counts = [state["taken"] for own in states for state in own]
    return {name: sum(each[name] for each in counts) for name in counts[0]} if counts else {}


def shares_taken(states: Sequence[Sequence[State]]) -> dict[str, float]:
    """Return the share of each source in the tokens that the workers of all processes took, by name."""
    taken = tokens_taken(states)
    total = max(sum(taken.values()), 1)
    return {name: count / total for name, count in taken.items()}
