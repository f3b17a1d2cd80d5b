"""Train streams: the batches of one optimizer step after another, without an end, resumed at any of them.

Both kinds give the list of a step's micro-batches, fewer at the end of an epoch, and have the attributes

- ``steps_in_epoch``: optimizer steps of the first epoch; None if the text's length is unknown.
- ``epoch``: epochs done after the steps taken so far, as a float; None likewise.
- ``ends_epoch``: whether the last step taken ended one.

and ``state_dict()``, fit for JSON: where to resume after the steps taken so far.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object

from cloze.config.arguments import TrainingArguments
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.data.streaming import StreamedBatches, StreamedExamples
from cloze.errors import UserError
from cloze.system.signals import ignore_signals_in_worker

Batch = dict[str, Any]
Collator = Callable[[list[dict]], Batch]


def loader_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return what the data loaders of training and of evaluations share."""
    return {
        # Of its own, lest the order of random numbers, as for dropout, depend on when a loader is made.
        "generator": torch.Generator(),
        "worker_init_fn": ignore_signals_in_worker,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
    }


def _make_loader(args: TrainingArguments, **kwargs) -> DataLoaderShard:
    persistent = args.dataloader_persistent_workers
    return DataLoaderShard(device=args.device, persistent_workers=persistent, **loader_settings(args), **kwargs)


class PreparedStream:
    """Optimizer steps of a prepared corpus, one epoch after another.

    Args:
        settings: how batches are made.
        padded_lengths: of lengths, how long a batch is padded whose longest example is of that length.
        state: a ``state_dict`` to resume from.
    """

    def __init__(
        self,
        data: EpochDataset,
        collator: Collator,
        settings: BatchSettings,
        padded_lengths: Callable[[np.ndarray], np.ndarray],
        args: TrainingArguments,
        state: dict[str, Any] | None,
    ):
        if len(data) < args.world_size:
            raise UserError(f"{len(data)} examples for {args.world_size} processes: give more text, or use fewer")
        self.sampler = ResumableBatchSampler(data, settings, padded_lengths, args.shuffle_seed, args.process_index)
        self.steps_in_epoch, self.steps_taken = self.sampler.num_steps, 0
        if state is not None:
            history = [(BatchSettings(**settings), steps) for settings, steps in state["history"]]
            self.sampler.set_epoch(state["epoch"], history)
        self.loader = _make_loader(args, dataset=data, batch_sampler=self.sampler, collate_fn=collator)

    def __iter__(self) -> Iterator[list[Batch]]:
        while True:
            self.steps_taken = 0
            self.loader.set_epoch(self.sampler.epoch)
            batches = iter(self.loader)
            for _ in range(self.sampler.num_steps - self.sampler.steps_done):
                self.steps_taken += 1
                yield list(islice(batches, self.sampler.settings.accumulation))
            self.sampler.set_epoch(self.sampler.epoch + 1)

    @property
    def epoch(self) -> float:
        return self.sampler.epoch + self.sampler.fraction_done(self.steps_taken)

    @property
    def ends_epoch(self) -> bool:
        return self.state_dict()["epoch"] > self.sampler.epoch

    def state_dict(self) -> dict[str, Any]:
        epoch, history = self.sampler.position_after(self.steps_taken)
        return {"epoch": epoch, "history": [(asdict(settings), steps) for settings, steps in history]}


class TextStream:
    """Optimizer steps of examples that are made while the text is read; the arguments are those of PreparedStream.

    Attributes:
        batches: of one process, without regard to steps.
    """

    steps_in_epoch, epoch, ends_epoch = None, None, False

    def __init__(
        self,
        data: StreamedExamples,
        collator: Collator,
        settings: BatchSettings,
        padded_lengths: Callable[[np.ndarray], np.ndarray],
        args: TrainingArguments,
        state: dict[str, Any] | None,
    ):
        self.batches = StreamedBatches(
            data,
            replace(settings, accumulation=1, processes=1, drop_last=False),
            padded_lengths,
            args.shuffle_seed,
            args.process_index,
            args.world_size,
            args.dataloader_num_workers,
            None if state is None else state["workers"],
        )
        self.accumulation, self.batches_taken = settings.accumulation, 0
        self.states = list(self.batches.states)
        self.loader = _make_loader(args, dataset=self.batches, batch_size=None, collate_fn=partial(_collate, collator))

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = iter(self.loader)
        while True:
            step = list(islice(batches, self.accumulation))
            for batch in step:
                worker, state = batch.pop("stream")
                self.states[worker] = state
            self.batches_taken += len(step)
            yield step

    def state_dict(self) -> dict[str, Any]:
        """Return each process's states, by data-loader worker, from the one whose turn it is; waits for all."""
        turn = self.batches_taken % len(self.states)
        return {"workers": gather_object([self.states[turn:] + self.states[:turn]])}


def _collate(collator: Collator, item: tuple[list[dict], tuple]) -> Batch:
    """Make a batch of a stream, with the worker it is from and where that resumes."""
    examples, state = item
    return collator(examples) | {"stream": state}
