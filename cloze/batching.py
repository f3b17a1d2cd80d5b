"""Which examples share a batch, and in which order batches are taken: from (seed, epoch), whatever the processes and
workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler


class EpochExamples(Dataset):
    """Examples asked for by (epoch, number), and marked with the epoch, on which their masks depend.

    That the epoch comes with the number, and not from a ``set_epoch`` here, makes it right in data-loader workers that
    outlive an epoch.

    Args:
        draw: gives the examples of an epoch: a sequence with ``lengths``. Their number may vary.
        limit: take the first so many of each epoch.
    """

    def __init__(self, draw: Callable[[int], Sequence], limit: int | None = None):
        self.draw, self.limit = draw, limit
        self.epoch, self.examples = 0, draw(0)
        self.length = len(self.lengths(0))

    def __len__(self) -> int:
        """Examples in the first epoch."""
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

    def __getitems__(self, batches: list[list[tuple[int, int]]]) -> list[dict]:
        """The examples of a batch, which is one item of EpochBatches."""
        (batch,) = batches
        return [self[key] for key in batch]


@dataclass(frozen=True)
class BatchSettings:
    """How batches are made.

    Attributes:
        strategy: group_by_length: examples of similar length; random; or sequential, in the order of the text.
        batch_size: examples in a batch of one process, unless ``max_tokens`` is given.
        accumulation: batches of one process in an optimizer step.
        processes: how many processes share the batches, in turn.
        drop_last: leave out what fills no optimizer step.
        max_tokens: tokens in a batch, padding included; group_by_length only.
    """

    strategy: str
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    drop_last: bool = False
    max_tokens: int | None = None

    @property
    def batches_a_step(self) -> int:
        return self.accumulation * self.processes


class EpochBatches(Sampler):
    """Batches of (epoch, number): every example of an epoch once, in an order drawn from (seed, epoch).

    The processes take them in turn; they are so many that each gets the same number.

    Args:
        examples: what is sampled from.
        widths: of lengths, how long a batch is padded whose longest example is of that length.
    """

    def __init__(
        self,
        examples: EpochExamples,
        settings: BatchSettings,
        widths: Callable[[np.ndarray], np.ndarray],
        seed: int,
    ):
        self.examples, self.settings, self.widths, self.seed = examples, settings, widths, seed
        self.epoch = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        # Examples and batches are drawn here, before data-loader workers are forked, which then share them.
        self.epoch = epoch
        widths = self.widths(self.examples.lengths(epoch))
        self.order, self.spans = draw_batches(widths, self.settings, np.random.default_rng((self.seed, epoch)))

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for begin, end in self.spans:
            yield [(self.epoch, number) for number in self.order[begin:end].tolist()]


def draw_batches(
    widths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The order of the examples, [examples], and where in it each batch begins and ends, [batches, 2].

    An optimizer step is made of ``accumulation * processes`` batches, one after the other, the last step of fewer.
    """
    order = np.arange(len(widths)) if settings.strategy == "sequential" else rng.permutation(len(widths))
    if settings.max_tokens is None:
        return batches_by_number(order, widths, settings, rng)
    return batches_by_tokens(order, widths, settings, rng)


def longest_first(order: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Sorted by width; examples of the same width stay in their order, which is random."""
    return order[np.argsort(-widths[order], kind="stable")]


def batches_by_number(
    order: np.ndarray, widths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Batches of ``batch_size`` examples.

    Which examples make up an optimizer step depends on their number alone, not on how it is cut into batches. Grouped
    by length, those of a step are of similar length, and the steps are shuffled. The last step, of what is left, is of
    any length: else it would always have the shortest examples, or the longest.
    """
    grouped = settings.strategy == "group_by_length"
    step = settings.batch_size * settings.batches_a_step
    left = len(order) % step
    if 0 < left < settings.processes and len(order) > step and not settings.drop_last:
        left += step  # too few for all processes: they join a step
    full, rest = np.split(order, [len(order) - left])
    steps = np.arange(len(full) // step)
    if grouped:
        full, rest = longest_first(full, widths), longest_first(rest, widths)
        steps = rng.permutation(steps)
    bounds = np.arange(settings.batches_a_step + 1) * settings.batch_size
    spans = np.stack([bounds[:-1], bounds[1:]], axis=1) + step * steps[:, None, None]
    spans = spans.reshape(-1, 2)
    if left and not (settings.drop_last and len(full)):
        rounds = min(-(-left // (settings.batch_size * settings.processes)), settings.accumulation)
        count = min(rounds, left // settings.processes) * settings.processes
        bounds = len(full) + np.arange(count + 1) * left // count
        spans = np.concatenate([spans, np.stack([bounds[:-1], bounds[1:]], axis=1)])
    return np.concatenate([full, rest]), spans


def batches_by_tokens(
    order: np.ndarray, widths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Batches of as many examples of similar length as fit into ``max_tokens``, in random order.

    Each is as wide as its first example, the longest, so that batches of a width have the same number of examples. An
    optimizer step has batches of any length.
    """
    order = longest_first(order, widths)
    fitting = np.maximum(settings.max_tokens // widths[order], 1).tolist()
    bounds = [0]
    while bounds[-1] < len(order):
        bounds.append(min(bounds[-1] + fitting[bounds[-1]], len(order)))
    bounds = np.array(bounds)
    for _ in range(-(len(bounds) - 1) % settings.processes):
        # One more batch is needed for all processes to have the same number: the one of most examples makes two.
        sizes = np.diff(bounds)
        largest = sizes.argmax()
        if sizes[largest] > 1:
            bounds = np.insert(bounds, largest + 1, bounds[largest] + sizes[largest] // 2)
    spans = rng.permutation(np.stack([bounds[:-1], bounds[1:]], axis=1))
    if settings.drop_last and len(spans) >= settings.batches_a_step:
        return order, spans[: len(spans) // settings.batches_a_step * settings.batches_a_step]
    # Where no batch has two examples to split, some are taken twice.
    return order, np.concatenate([spans, spans[: -len(spans) % settings.processes]])
