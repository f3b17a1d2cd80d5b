"""In which order examples are taken: reproducible from (seed, epoch), whatever the processes and workers."""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
from transformers.trainer_pt_utils import LengthGroupedSampler

SHUFFLE_BUFFER = 10_000


class EpochExamples(Dataset):
    """Examples asked for by (epoch, number), and marked with the epoch, on which their masks depend.

    That the epoch comes with the number, and not from a ``set_epoch`` here, makes it right in data-loader workers that
    outlive an epoch.

    Args:
        draw: gives the examples of an epoch: a sequence with ``lengths``, and with ``spread`` where their number
            varies.
        limit: take the first so many of each epoch.
    """

    def __init__(self, draw: Callable[[int], Sequence], limit: int | None = None):
        self.draw, self.limit = draw, limit
        self.epoch, self.examples = 0, draw(0)
        spread = getattr(self.examples, "spread", 0)
        self.length = min(len(self.examples.lengths) + spread, limit or sys.maxsize)

    def __len__(self) -> int:
        return self.length

    def of_epoch(self, epoch: int) -> Sequence:
        """The examples of an epoch; those of the last one asked for are kept."""
        if epoch != self.epoch:
            self.epoch, self.examples = epoch, self.draw(epoch)
        return self.examples

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens in each example of an epoch."""
        return self.of_epoch(epoch).lengths[: self.limit]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, number = key
        return {**self.of_epoch(epoch)[number], "epoch": epoch}


class EpochSampler(Sampler):
    """(epoch, number) of every example once, drawn anew each epoch from (seed, epoch).

    Every epoch is equally long, on which the Trainer counts. Where the number of examples varies, as of pairs drawn
    anew, that is a few more than in the first, so that none need be left out, and some are taken twice.

    Args:
        examples: what is sampled from.
        strategy: random, sequential, or group_by_length: examples of similar length in a batch.
        batch_size: examples that group_by_length puts together.
    """

    def __init__(self, examples: EpochExamples, strategy: str, batch_size: int, seed: int):
        self.examples, self.strategy, self.batch_size, self.seed = examples, strategy, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        # Drawn here, before data-loader workers are forked, which then share it.
        self.examples.of_epoch(epoch)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(number)) for number in np.resize(self.order(), len(self)))

    def order(self) -> np.ndarray | list[int]:
        lengths = self.examples.lengths(self.epoch)
        if self.strategy == "sequential":
            return np.arange(len(lengths))
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.strategy == "group_by_length":
            generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
            return list(LengthGroupedSampler(self.batch_size, lengths=lengths.tolist(), generator=generator))
        return rng.permutation(len(lengths))


class StreamedExamples(IterableDataset):
    """Training examples made while they are read, epoch after epoch without an end, through a shuffle buffer.

    The Trainer counts the steps of a stream over all epochs, and a resumed run skips as many: with an end to each
    epoch it would skip the wrong ones.

    Args:
        stream: gives an iterator over the examples of an epoch, in the order of the text.
        seed: of the shuffling.
        limit: take the first so many of an epoch.
    """

    def __init__(self, stream: Callable[[], Iterator[dict]], seed: int, limit: int | None = None):
        self.stream, self.seed, self.limit = stream, seed, limit

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for epoch in count():
            examples = shuffle(
                islice(self.stream(), first, self.limit, step),
                np.random.default_rng((self.seed, epoch)),
                SHUFFLE_BUFFER,
            )
            first_example = next(examples, None)
            if first_example is None:  # fewer examples than workers
                return
            for example in chain([first_example], examples):
                yield {**example, "epoch": epoch}


def shuffle(examples: Iterator[dict], rng: np.random.Generator, buffer_size: int) -> Iterator[dict]:
    """Examples in random order, as far as a buffer of ``buffer_size`` allows."""
    buffer = list(islice(examples, buffer_size))
    for example in examples:
        place = rng.integers(len(buffer))
        yield buffer[place]
        buffer[place] = example
    rng.shuffle(buffer)
    yield from buffer
