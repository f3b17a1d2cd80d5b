"""Draw batches and their order from (seed, epoch), for any number of processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Sampler, Subset


class Examples(Protocol):
    """Hold examples of token ids."""

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens in each example, including special tokens, [examples]."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


class EpochDataset(Dataset):
    """Return examples by (epoch, number), and add the epoch, on which their masks depend.

    The epoch is part of the key, and not set here, because data-loader workers may outlive an epoch.

    Args:
        draw: returns the examples of an epoch; their number may differ between epochs.
        limit: use only the first ``limit`` examples of each epoch.

    Attributes:
        size: examples and tokens of the first epoch, which identify the text.
    """

    def __init__(self, draw: Callable[[int], Examples], limit: int | None = None):
        self.draw, self.limit = draw, limit
        self.epoch, self.examples = 0, draw(0)
        lengths = self.lengths(0)
        self.length = len(lengths)
        self.size = [self.length, int(lengths.sum())]

    def __len__(self) -> int:
        """Return the number of examples in the first epoch."""
        return self.length

    def examples_for_epoch(self, epoch: int) -> Examples:
        """Return the examples of an epoch; the most recent epoch is kept in memory."""
        if epoch != self.epoch:
            self.epoch, self.examples = epoch, self.draw(epoch)
        return self.examples

    def lengths(self, epoch: int) -> np.ndarray:
        """Return the number of tokens in each example of an epoch, [examples]."""
        return self.examples_for_epoch(epoch).lengths[: self.limit]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, number = key
        return {**self.examples_for_epoch(epoch)[number], "epoch": epoch}


@dataclass(frozen=True)
class BatchSettings:
    """Configure how batches are drawn.

    Attributes:
        strategy: ``group_by_length`` (examples of similar length), ``random``, or ``sequential`` (order of the text).
        batch_size: examples in a batch of one process, unless ``max_tokens`` is given.
        accumulation: batches of one process in an optimizer step.
        processes: number of processes, which take batches in turn.
        drop_last: drop the last batches if they do not fill an optimizer step.
        max_tokens: most tokens in a batch, including padding; for ``group_by_length`` only.
    """

    strategy: str
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    drop_last: bool = False
    max_tokens: int | None = None

    @property
    def batches_per_step(self) -> int:
        """Return the batches of all processes in an optimizer step."""
        return self.accumulation * self.processes

    def scaled(self, fraction: Fraction) -> "BatchSettings":
        """Return the settings for this fraction of a step: of its batches if they can be divided, else of each batch.

        Fewer batches use the device as well as before; smaller ones may not.
        """
        if (fraction * self.accumulation).denominator == 1:
            return replace(self, accumulation=int(fraction * self.accumulation))
        assert (fraction * self.batch_size).denominator == 1, "check_schedules has checked it"
        return replace(self, batch_size=int(fraction * self.batch_size))


class ResumableBatchSampler(Sampler):
    """Yield one process's batches, lists of (epoch, number); all processes together take each example once per epoch.

    The order is drawn from (seed, epoch). The processes take batches in turn, and each takes the same number.

    An epoch can be resumed at any optimizer step without replaying earlier batches. Its history is a list of segments:
    settings, and the number of steps taken with them. If the present settings, for example another number of processes,
    do not reproduce the steps of the last segment, the rest of the epoch is drawn again.

    Args:
        examples: the examples to sample.
        settings: how batches are drawn.
        padded_lengths: maps the lengths of longest examples to the padded lengths of their batches.
        seed: of the order.
        rank: number of this process.
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
        self.epoch = -1  # no epoch is drawn yet
        self.set_epoch(0)

    def set_epoch(
        self, epoch: int, history: Sequence[tuple[BatchSettings, int]] = (), settings: BatchSettings | None = None
    ) -> None:
        """Draw the batches of an epoch, with other settings if given; do nothing if they are already drawn."""
        before, self.settings = self.settings, settings or self.settings
        if epoch == self.epoch and not history and self.settings == before:
            return
        # Drawn here, before data-loader workers are forked, so the workers share examples and batches.
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
        """Draw batches of the examples left after the segments; return the order and spans of ``draw_batches``."""
        # With fewer examples than processes, some are taken twice.
        left = np.resize(left, max(len(left), settings.processes))
        # Starts at 2: pairs are drawn from (seed, epoch, 1).
        segment = (1 + len(self.segments),) if self.segments else ()
        order, spans = draw_batches(lengths[left], settings, np.random.default_rng((self.seed, self.epoch, *segment)))
        return left[order], spans

    def _taken(self, left: np.ndarray, lengths: np.ndarray, settings: BatchSettings, steps: int) -> np.ndarray:
        """Return whether each example is taken by the first ``steps`` steps of the rest, bool [examples]."""
        order, spans = self._draw(left, lengths, settings)
        begins, ends = spans[: steps * settings.batches_per_step].T
        inside = np.bincount(begins, minlength=len(order) + 1) - np.bincount(ends, minlength=len(order) + 1)
        taken = np.zeros(len(lengths), dtype=bool)
        taken[order[np.cumsum(inside[:-1]) > 0]] = True
        return taken

    def _same_steps(self, left: np.ndarray, lengths: np.ndarray, settings: BatchSettings, steps: int) -> bool:
        """Return whether other settings and the present ones take the same examples in the first ``steps`` steps."""
        if settings == self.settings:
            return True
        taken = self._taken(left, lengths, settings, steps)
        return np.array_equal(taken, self._taken(left, lengths, self.settings, steps))

    @property
    def num_steps(self) -> int:
        """Return the optimizer steps since the last segment of the epoch, including the steps already done."""
        return -(-len(self.spans) // self.settings.batches_per_step)

    def position_after(self, steps: int) -> tuple[int, list[tuple[BatchSettings, int]]]:
        """Return the epoch to resume after ``steps`` more steps, and its history."""
        if self.steps_done + steps == self.num_steps:
            return self.epoch + 1, []
        return self.epoch, [*self.segments, (self.settings, self.steps_done + steps)]

    def fraction_done(self, steps: int) -> float:
        """Return the fraction of the epoch, 0 to 1, that is done after ``steps`` more steps."""
        return self._fraction_before + (1 - self._fraction_before) * (self.steps_done + steps) / self.num_steps

    def __len__(self) -> int:
        return (len(self.spans) - self.steps_done * self.settings.batches_per_step) // self.settings.processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.steps_done * self.settings.batches_per_step + self.rank
        for begin, end in self.spans[first :: self.settings.processes]:
            yield [(self.epoch, number) for number in self.order[begin:end].tolist()]


class HeldOutSets(ConcatDataset):
    """Join the held-out sets, which one evaluation then goes through in order.

    Attributes:
        sizes: number of examples of each set, by name.
    """

    def __init__(self, sets: dict[str, Subset]):
        super().__init__(list(sets.values()))
        self.sizes = {name: len(examples) for name, examples in sets.items()}


def longest_first(examples: Examples, limit: int | None = None) -> Subset:
    """Sort the first ``limit`` examples by descending length, to reduce padding."""
    order = np.argsort(-examples.lengths[:limit], kind="stable")
    # Subset takes any sequences, though it is annotated with Dataset and Sequence.
    return Subset(examples, order)  # type: ignore[arg-type]


def draw_batches(
    lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the examples, [examples], and the begin and end of each batch in it, [batches, 2].

    An optimizer step takes ``accumulation * processes`` consecutive batches; the last step may have fewer.
    """
    order = np.arange(len(lengths)) if settings.strategy == "sequential" else rng.permutation(len(lengths))
    if settings.max_tokens is None:
        return _batches_by_number(order, lengths, settings, rng)
    return _batches_by_tokens(order, lengths, settings, rng)


def _longest_first(order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sort the order by descending length; examples of equal length keep their random order."""
    # numpy sorts 16-bit integers in linear time.
    dtype = np.min_scalar_type(-int(lengths.max(initial=1)))
    return order[np.argsort(-lengths[order].astype(dtype), kind="stable")]


def _batches_by_number(
    order: np.ndarray, lengths: np.ndarray, settings: BatchSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw batches of ``batch_size`` examples.

    The examples of an optimizer step depend on their number only, not on how the step is cut into batches. Grouped by
    length, a step has examples of similar length, and the steps are shuffled. The last, incomplete step has examples of
    any length; otherwise it would always have the shortest or the longest ones.
    """
    grouped = settings.strategy == "group_by_length"
    step = settings.batch_size * settings.batches_per_step
    left = len(order) % step
    if 0 < left < settings.processes and len(order) > step and not settings.drop_last:
        left += step  # too few for all processes: join them with a full step
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
    """Draw batches of similar length, with as many examples as fit into ``max_tokens``, in random order.

    A batch is padded to its first, longest example, so batches of equal padded length have equally many examples. An
    optimizer step has batches of any length.
    """
    order = _longest_first(order, lengths)
    fitting = np.maximum(settings.max_tokens // lengths[order], 1).tolist()
    ends = [0]
    while ends[-1] < len(order):
        ends.append(min(ends[-1] + fitting[ends[-1]], len(order)))
    bounds: np.ndarray = np.array(ends)
    for _ in range(-(len(bounds) - 1) % settings.processes):
        # All processes need the same number of batches: split the batch with the most examples.
        sizes = np.diff(bounds)
        largest = sizes.argmax()
        if sizes[largest] > 1:
            bounds = np.insert(bounds, largest + 1, bounds[largest] + sizes[largest] // 2)
    spans = rng.permutation(np.stack([bounds[:-1], bounds[1:]], axis=1))
    if settings.drop_last and len(spans) >= settings.batches_per_step:
        return order, spans[: len(spans) // settings.batches_per_step * settings.batches_per_step]
    # If no batch has two examples to split, some batches are taken twice.
    return order, np.concatenate([spans, spans[: -len(spans) % settings.processes]])
