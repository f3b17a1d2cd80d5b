"""In which order examples are taken: reproducible from (seed, epoch), whatever the processes and workers."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
from transformers.trainer_pt_utils import LengthGroupedSampler

SHUFFLE_BUFFER = 10_000


class EpochExamples(Dataset):
    """Examples asked for by (epoch, number), and marked with the epoch, on which their masks depend.

    That the epoch comes with the number, and not from a ``set_epoch`` here, makes it right in data-loader workers that
    outlive an epoch.
    """

    def __init__(self, examples, limit: int | None = None):
        self.examples = examples
        self.lengths = examples.lengths[:limit]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, number = key
        return {**self.examples[number], "epoch": epoch}


class EpochSampler(Sampler):
    """(epoch, number) of every example once, drawn anew each epoch from (seed, epoch).

    Args:
        lengths: tokens in each example.
        strategy: random, sequential, or group_by_length: examples of similar length in a batch.
        batch_size: examples that group_by_length puts together.
    """

    def __init__(self, lengths: np.ndarray, strategy: str, batch_size: int, seed: int):
        self.lengths, self.strategy, self.batch_size, self.seed = lengths, strategy, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(number)) for number in self.order())

    def order(self) -> np.ndarray | list[int]:
        if self.strategy == "sequential":
            return np.arange(len(self))
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.strategy == "group_by_length":
            generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
            return list(LengthGroupedSampler(self.batch_size, lengths=self.lengths.tolist(), generator=generator))
        return rng.permutation(len(self))


class StreamedExamples(IterableDataset):
    """Examples made while they are read. For training they pass through a shuffle buffer.

    Args:
        stream: gives an iterator over all examples, in the order of the text.
        seed: of the shuffling; None for evaluation, in order and without an epoch.
        limit: take the first so many.
    """

    def __init__(self, stream: Callable[[], Iterator[dict]], seed: int | None, limit: int | None = None):
        self.stream, self.seed, self.limit = stream, seed, limit
        # Shared, so that workers that outlive an epoch learn of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        examples = islice(self.stream(), first, self.limit, step)
        if self.seed is None:
            return examples
        epoch = int(self.epoch)
        rng = np.random.default_rng((self.seed, epoch))
        return ({**example, "epoch": epoch} for example in shuffle(examples, rng, SHUFFLE_BUFFER))


def shuffle(examples: Iterator[dict], rng: np.random.Generator, buffer_size: int) -> Iterator[dict]:
    """Examples in random order, as far as a buffer of ``buffer_size`` allows."""
    buffer = list(islice(examples, buffer_size))
    for example in examples:
        place = rng.integers(len(buffer))
        yield buffer[place]
        buffer[place] = example
    rng.shuffle(buffer)
    yield from buffer
