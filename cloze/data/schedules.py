"""Tell the collator in which step of the run a batch is used, for what changes in the course of a run.

Data-loader workers make batches before their step, so each training example gets its step as ``"step"``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

Value = TypeVar("Value")


class Step(NamedTuple):
    """Hold the number of an optimizer step, from 0, and the total number of steps of the run."""

    number: int
    total: int

    def between(self, first: float, last: float) -> float:
        """Return the value at this step of a line from ``first`` at the first step to ``last`` at the last one."""
        return first + (last - first) * self.number / max(self.total - 1, 1)

    def choose(self, values: Sequence[Value]) -> Value:
        """Return one of the values, which share the steps of the run equally, in their order."""
        return values[self.number * len(values) // self.total]


@dataclass
class StepCounter:
    """Find the step of each batch of a process.

    Attributes:
        accumulation: batches of a process in a step.
        first: the step of the first batch.
        total: the steps of the run.
    """

    accumulation: int
    first: int = 0
    total: int = 1

    def step_after(self, steps: int) -> Step:
        """Return the step that follows the first one after a number of steps; at most the last one."""
        # Loaders make batches in advance, also for steps after the last one.
        return Step(min(self.first + steps, self.total - 1), self.total)

    def step_of(self, batch: int) -> Step:
        """Return the step of a batch, given its number from the first batch on."""
        return self.step_after(batch // self.accumulation)


class StepSampler(Sampler):
    """Yield the batches of a sampler with their step: lists of (key, step)."""

    def __init__(self, sampler: Sampler, counter: StepCounter):
        # accelerate's loader sets the epoch of this attribute.
        self.sampler, self.counter = sampler, counter

    def __iter__(self) -> Iterator[list[tuple[Any, Step]]]:
        for number, keys in enumerate(self.sampler):
            step = self.counter.step_of(number)
            yield [(key, step) for key in keys]


class StepDataset(Dataset):
    """Return the examples of a dataset by (key, step), and add the step."""

    def __init__(self, examples: Dataset):
        self.examples = examples

    def __getitem__(self, item: tuple[Any, Step]) -> dict[str, Any]:
        key, step = item
        return self.examples[key] | {"step": step}


class StepStream(IterableDataset):
    """Yield the batches of a stream, each with its state, and add the step to their examples.

    The data-loader workers of a process take turns, so a batch's number follows from those of its worker.
    """

    def __init__(self, batches: IterableDataset, counter: StepCounter):
        self.batches, self.counter = batches, counter

    def __iter__(self) -> Iterator[tuple[list[dict], Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for number, (examples, state) in enumerate(self.batches):
            step = self.counter.step_of(number * workers + worker)
            yield [example | {"step": step} for example in examples], state


def cut_rows(batch: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Cut the rows of arrays [batch, width] into rows of ``length``, which divides the width; drop padding rows.

    ``{"input_ids": [[2, 7, 8, 9], [2, 5, 0, 0]], "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]]}`` with the length 2
    becomes ``{"input_ids": [[2, 7], [8, 9], [2, 5]], "attention_mask": [[1, 1], [1, 1], [1, 1]]}``.
    """
    rows = {name: values.reshape(-1, length) for name, values in batch.items()}
    kept = rows["attention_mask"].any(axis=1)
    return {name: values[kept] for name, values in rows.items()}
