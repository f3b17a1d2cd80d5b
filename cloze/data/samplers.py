"""Which examples share a batch, and in which order batches are taken: from (seed, epoch), whatever the processes and
workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler


class EpochDataset(Dataset):
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
        lengths = self.lengths(0)
        self.length = len(lengths)
        # Examples and tokens of the first epoch, by which the text is known again.
        self.size = [self.length, int(lengths.sum())]

    def __len__(self) -> int:
        """Examples in the first epoch."""
        return self.length

    def examples_for_epoch(self, epoch: int) -> Sequence:
        """The examples of an epoch; those of the last one asked for are kept."""
        if epoch != self.epoch:
            self.epoch, self.examples = epoch, self.draw(epoch)
        return self.examples

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens in each example of an epoch."""
        return self.examples_for_epoch(epoch).lengths[: self.limit]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, number = key
        return {**self.examples_for_epoch(epoch)[number], "epoch": epoch}


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

    def count_steps(self, batches: int) -> int:
        """Optimizer steps that so many batches make, the last one of fewer."""
        return -(-batches // self.batches_a_step)


class ResumableBatchSampler(Sampler):
    """One process's batches of (epoch, number); those of all processes have every example of an epoch once.

    Their order is drawn from (seed, epoch). The processes take them in turn, each the same number.

    An epoch can be gone on with in its middle, which is reached by index. Its past is a list of stretches, each so many
    optimizer steps taken with some settings. Where the settings now, as with another number of processes, do not give
    the steps of the last stretch, what is left of the epoch is drawn anew.

    Args:
        examples: what is sampled from.
        widths: of lengths, how long a batch is padded whose longest example is of that length.
        rank: the number of this process.
    """

    def __init__(
        self,
        examples: EpochDataset,
        settings: BatchSettings,
        widths: Callable[[np.ndarray], np.ndarray],
        seed: int,
        rank: int = 0,
    ):
        self.examples, self.settings, self.widths, self.seed, self.rank = examples, settings, widths, seed, rank
        self.epoch = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int, past: Sequence[tuple[BatchSettings, int]] = ()) -> None:
        """Draw the batches of an epoch; nothing changes if it is the present one, and no past of it is given."""
        if epoch == self.epoch and not past:
            return
        # Examples and batches are drawn here, before data-loader workers are forked, which then share them.
        self.epoch, self.stretches, self.begun = epoch, [], 0
        widths = self.widths(self.examples.lengths(epoch))
        left = np.arange(len(widths))
        for number, (settings, steps) in enumerate(past, 1):
            if number == len(past) and self.same_steps(left, widths, settings, steps):
                self.begun = steps
            else:
                left = left[~self.taken(left, widths, settings, steps)[left]]
                self.stretches.append((settings, steps))
        self.share_before = 1 - len(left) / len(widths)
        self.order, self.spans = self.draw(left, widths, self.settings)

    def draw(self, left: np.ndarray, widths: np.ndarray, settings: BatchSettings) -> tuple[np.ndarray, np.ndarray]:
        """As draw_batches, for what is left of the epoch after the stretches."""
        # Too few for all processes: some are taken twice.
        left = np.resize(left, max(len(left), settings.processes))
        # Pairs are drawn from (seed, epoch, 1).
        stretch = (1 + len(self.stretches),) if self.stretches else ()
        order, spans = draw_batches(widths[left], settings, np.random.default_rng((self.seed, self.epoch, *stretch)))
        return left[order], spans

    def taken(self, left: np.ndarray, widths: np.ndarray, settings: BatchSettings, steps: int) -> np.ndarray:
        """Which of all examples the first so many optimizer steps of what is left take, bool [examples]."""
        order, spans = self.draw(left, widths, settings)
        begins, ends = spans[: steps * settings.batches_a_step].T
        inside = np.bincount(begins, minlength=len(order) + 1) - np.bincount(ends, minlength=len(order) + 1)
        taken = np.zeros(len(widths), dtype=bool)
        taken[order[np.cumsum(inside[:-1]) > 0]] = True
        return taken

    def same_steps(self, left: np.ndarray, widths: np.ndarray, settings: BatchSettings, steps: int) -> bool:
        """Whether so many steps of other settings are those of the settings now."""
        if settings == self.settings:
            return True
        return np.array_equal(*(self.taken(left, widths, each, steps) for each in (settings, self.settings)))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the epoch since its last stretch, those begun included."""
        return self.settings.count_steps(len(self.spans))

    def after(self, steps: int) -> tuple[int, list[tuple[BatchSettings, int]]]:
        """The epoch to go on with after so many steps more, and its past."""
        if self.begun + steps == self.num_steps:
            return self.epoch + 1, []
        return self.epoch, [*self.stretches, (self.settings, self.begun + steps)]

    def share(self, steps: int) -> float:
        """Which share of the epoch is over after so many steps more."""
        return self.share_before + (1 - self.share_before) * (self.begun + steps) / self.num_steps

    def __len__(self) -> int:
        return (len(self.spans) - self.begun * self.settings.batches_a_step) // self.settings.processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.begun * self.settings.batches_a_step + self.rank
        for begin, end in self.spans[first :: self.settings.processes]:
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
    # Numbers of 16 bits are sorted in linear time.
    dtype = np.min_scalar_type(-int(widths.max(initial=1)))
    return order[np.argsort(-widths[order].astype(dtype), kind="stable")]


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
