"""Draw which examples share a batch, and the order of batches, from (seed, epoch), however many processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler, Subset


class EpochDataset(Dataset):
    """Give examples by (epoch, number), marked with the epoch, on which their masks depend.

    That the epoch comes with the number, and not from a ``set_epoch`` here, makes it right in data-loader workers that
    outlive an epoch.

    Args:
        draw: gives the examples of an epoch: a sequence with ``lengths``. Their number may vary.
        limit: take the first ``limit`` examples of each epoch.
    """

    def __init__(self, draw: Callable[[int], Sequence], limit: int | None = None):
        self.draw, self.limit = draw, limit
        self.epoch, self.examples = 0, draw(0)
        lengths = self.lengths(0)
        self.length = len(lengths)
        # Examples and tokens of the first epoch, by which the text is known again.
        self.size = [self.length, int(lengths.sum())]

    def __len__(self) -> int:
        """Return the number of examples in the first epoch."""
        return self.length

    def examples_for_epoch(self, epoch: int) -> Sequence:
        """Return the examples of an epoch; those of the last one asked for are kept."""
        if epoch != self.epoch:
            self.epoch, self.examples = epoch, self.draw(epoch)
        return self.examples

    def lengths(self, epoch: int) -> np.ndarray:
        """Return the number of tokens in each example of an epoch."""
        return self.examples_for_epoch(epoch).lengths[: self.limit]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, number = key
        return {**self.examples_for_epoch(epoch)[number], "epoch": epoch}


@dataclass(frozen=True)
class BatchSettings:
    """Say how batches are made.

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
    def batches_per_step(self) -> int:
        return self.accumulation * self.processes


class ResumableBatchSampler(Sampler):
    """Give one process's batches of (epoch, number); those of all processes have every example of an epoch once.

    Their order is drawn from (seed, epoch). The processes take them in turn, each the same number.

    An epoch can be resumed in its middle, which is reached by index. Its history is a list of segments, each a number
    of optimizer steps taken with some settings. Where the settings now, as with another number of processes, do not
    give the steps of the last segment, what is left of the epoch is drawn anew.

    Args:
        examples: what is sampled from.
        padded_lengths: of lengths, how long a batch is padded whose longest example is of that length.
        rank: the number of this process.
    """

    def __init__(
        self,
        examples: EpochDataset,
        settings: BatchSettings,
        padded_lengths: Callable[[np.ndarray], np.ndarray],
        seed: int,
        rank: int = 0,
    ):
        self.examples, self.settings, self.seed, self.rank = examples, settings, seed, rank
        self.padded_lengths = padded_lengths
        self.epoch = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int, history: Sequence[tuple[BatchSettings, int]] = ()) -> None:
        """Draw the batches of an epoch; nothing changes if it is the present one, and no history of it is given."""
        if epoch == self.epoch and not history:
            return
        # Examples and batches are drawn here, before data-loader workers are forked, which then share them.
        self.epoch, self.segments, self.steps_done = epoch, [], 0
        lengths = self.padded_lengths(self.examples.lengths(epoch))
        left = np.arange(len(lengths))
        for number, (settings, steps) in enumerate(history, 1):
            if number == len(history) and self._same_steps(left, lengths, settings, steps):
                self.steps_done = steps
            else:
                left = left[~self._taken(left, lengths, settings, steps)[left]]
                self.segments.append((settings, steps))
        self._fraction_before = 1 - len(left) / len(lengths)
        self.order, self.spans = self._draw(left, lengths, self.settings)

    def _draw(self, left: np.ndarray, lengths: np.ndarray, settings: BatchSettings) -> tuple[np.ndarray, np.ndarray]:
        """Draw batches, as draw_batches does, of what is left of the epoch after the segments."""
        # Too few for all processes: some are taken twice.
        left = np.resize(left, max(len(left), settings.processes))
        # Pairs are drawn from (seed, epoch, 1).
        segment = (1 + len(self.segments),) if self.segments else ()
        order, spans = draw_batches(lengths[left], settings, np.random.default_rng((self.seed, self.epoch, *segment)))
        return left[order], spans

    def _taken(self, left: np.ndarray, lengths: np.ndarray, settings: BatchSettings, steps: int) -> np.ndarray:
        """Return which of all examples the first ``steps`` of what is left take, bool [examples]."""
        order, spans = self._draw(left, lengths, settings)
        begins, ends = spans[: steps * settings.batches_per_step].T
        inside = np.bincount(begins, minlength=len(order) + 1) - np.bincount(ends, minlength=len(order) + 1)
        taken = np.zeros(len(lengths), dtype=bool)
        taken[order[np.cumsum(inside[:-1]) > 0]] = True
        return taken

    def _same_steps(self, left: np.ndarray, lengths: np.ndarray, settings: BatchSettings, steps: int) -> bool:
        """Return whether the first ``steps`` steps by other settings equal those by the present settings."""
        if settings == self.settings:
            return True
        return np.array_equal(*(self._taken(left, lengths, each, steps) for each in (settings, self.settings)))

    @property
    def num_steps(self) -> int:
        """Return the optimizer steps of the epoch since its last segment, those done included."""
        return -(-len(self.spans) // self.settings.batches_per_step)

    def position_after(self, steps: int) -> tuple[int, list[tuple[BatchSettings, int]]]:
        """Return the epoch to continue with after ``steps`` more, and its history."""
        if self.steps_done + steps == self.num_steps:
            return self.epoch + 1, []
        return self.epoch, [*self.segments, (self.settings, self.steps_done + steps)]

    def fraction_done(self, steps: int) -> float:
        """Return which part of the epoch is over after ``steps`` more, from 0 to 1."""
        return self._fraction_before + (1 - self._fraction_before) * (self.steps_done + steps) / self.num_steps

    def __len__(self) -> int:
        return (len(self.spans) - self.steps_done * self.settings.batches_per_step) // self.settings.processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.steps_done * self.settings.batches_per_step + self.rank
        for begin, end in self.spans[first :: self.settings.processes]:
            yield [(self.epoch, number) for number in self.order[begin:end].tolist()]


def longest_first(examples: Sequence, limit: int | None = None) -> Subset:
    """Sort the examples, the first ``limit`` of them, by length, so that a batch has little padding."""
    return Subset(examples, np.argsort(-examples.lengths[:limit], kind="stable"))


def draw_batches(
    lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the examples, [examples], and where in it each batch begins and ends, [batches, 2].

    An optimizer step is made of ``accumulation * processes`` batches, one after the other, the last step of fewer.
    """
    order = np.arange(len(lengths)) if settings.strategy == "sequential" else rng.permutation(len(lengths))
    if settings.max_tokens is None:
        return _batches_by_number(order, lengths, settings, rng)
    return _batches_by_tokens(order, lengths, settings, rng)


def _longest_first(order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the order sorted by length; examples of the same length stay in their order, which is random."""
    # Numbers of 16 bits are sorted in linear time.
    dtype = np.min_scalar_type(-int(lengths.max(initial=1)))
    return order[np.argsort(-lengths[order].astype(dtype), kind="stable")]


def _batches_by_number(
    order: np.ndarray, lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw batches of ``batch_size`` examples.

    Which examples make up an optimizer step depends on their number alone, not on how it is cut into batches. Grouped
    by length, those of a step are of similar length, and the steps are shuffled. The last step, of what is left, is of
    any length: else it would always have the shortest examples, or the longest.
    """
    grouped = settings.strategy == "group_by_length"
    step = settings.batch_size * settings.batches_per_step
    left = len(order) % step
    if 0 < left < settings.processes and len(order) > step and not settings.drop_last:
        left += step  # too few for all processes: they join a step
    full, rest = np.split(order, [len(order) - left])
    steps = np.arange(len(full) // step)
    if grouped:
        full, rest = _longest_first(full, lengths), _longest_first(rest, lengths)
        steps = rng.permutation(steps)
    begins = (step * steps[:, None] + settings.batch_size * np.arange(settings.batches_per_step)).ravel()
    spans = np.stack([begins, begins + settings.batch_size], axis=1)
    if left and not (settings.drop_last and len(full)):
        rounds = min(-(-left // (settings.batch_size * settings.processes)), settings.accumulation)
        count = min(rounds, left // settings.processes) * settings.processes
        bounds = len(full) + np.arange(count + 1) * left // count
        spans = np.concatenate([spans, np.stack([bounds[:-1], bounds[1:]], axis=1)])
    return np.concatenate([full, rest]), spans


def _batches_by_tokens(
    order: np.ndarray, lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw batches of as many examples of similar length as fit into ``max_tokens``, in random order.

    Each is as wide as its first example, the longest, so that batches of a width have the same number of examples. An
    optimizer step has batches of any length.
    """
    order = _longest_first(order, lengths)
    fitting = np.maximum(settings.max_tokens // lengths[order], 1).tolist()
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
    if settings.drop_last and len(spans) >= settings.batches_per_step:
        return order, spans[: len(spans) // settings.batches_per_step * settings.batches_per_step]
    # Where no batch has two examples to split, some are taken twice.
    return order, np.concatenate([spans, spans[: -len(spans) % settings.processes]])
