"""Yield the micro-batches of optimizer steps, endlessly and resumable after any step: train streams.

Both streams yield the list of a step's micro-batches, fewer at the end of an epoch, and have the attributes

- ``steps_in_epoch``: optimizer steps of the first epoch, all of the full batch size; None if the length of the text is
  unknown.
- ``epoch``: epochs done after the steps taken so far, as a float; None if the length of the text is unknown.
- ``ends_epoch``: whether the last step taken ended an epoch.
- ``counter``: the next step to take and the steps of the run, to be set before the first step; examples get their step.

and ``state_dict()``, serializable as JSON: where to resume after the steps taken so far.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object

from cloze.config.arguments import TrainingArguments
from cloze.config.schedules import parse_fractions
from cloze.data.collators import Padding
from cloze.data.mixed_stream import MixedBatches, MixedStream
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.data.schedules import StepCounter, StepDataset, StepSampler, StepStream
from cloze.data.streaming import StreamedBatches, StreamedExamples
from cloze.errors import UserError
from cloze.system.signals import ignore_signals_in_worker

Batch = dict[str, Any]
Collator = Callable[[list[dict]], Batch]


def loader_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return the settings common to the data loaders of training and evaluation."""
    return {
        # Separate: a loader must not change the random numbers of dropout.
        "generator": torch.Generator(),
        "worker_init_fn": ignore_signals_in_worker,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
    }


def _make_loader(args, **kwargs) -> DataLoaderShard:
    persistent = args.dataloader_persistent_workers
    # Private: accelerate sets it in the loaders that it makes, but those would deal out the batches again.
    copies = {"device": args.device, "_non_blocking": args.accelerator_config.non_blocking}
    return DataLoaderShard(persistent_workers=persistent, **copies, **loader_settings(args), **kwargs)


def open_stream(
    data: EpochDataset | StreamedExamples | MixedStream,
    settings: BatchSettings,
    padding: Padding,
    collator: Collator,
    args,
    state=None,
) -> "PreparedStream | TextStream":
    """Return the train stream of this process.

    Args:
        data: the training examples.
        settings: how batches are made.
        padding: how batches are padded.
        collator: the collator.
        args: the training arguments.
        state: the ``state_dict`` to resume from, if any.
    """
    common = settings, padding.padded_lengths, args.shuffle_seed, args.process_index
    if isinstance(data, EpochDataset):
        if len(data) < args.world_size:
            raise UserError(
                f"{len(data)} examples for {args.world_size} processes: give more text, or use fewer processes"
            )
        return PreparedStream(ResumableBatchSampler(data, *common), collator, args, state)
    states = None if state is None else state["workers"]
    workers = args.world_size, args.dataloader_num_workers, states
    if isinstance(data, MixedStream):
        return TextStream(MixedBatches(data, *common, *workers), collator, args)
    return TextStream(StreamedBatches(data, *common, *workers), collator, args)


class PreparedStream:
    """Yield the optimizer steps of a prepared corpus, epoch after epoch."""

    def __init__(self, sampler: ResumableBatchSampler, collator: Collator, args, state: dict[str, Any] | None):
        self.sampler, self.steps_in_epoch, self.steps_taken = sampler, sampler.num_steps, 0
        self.start: tuple[int, list[tuple[BatchSettings, int]]] = (0, [])
        if state is not None:
            history = [(BatchSettings(**settings), steps) for settings, steps in state["history"]]
            self.start = state["epoch"], history
            sampler.set_epoch(*self.start)
        # The batch settings, each for an equal part of the steps.
        fractions = parse_fractions(args.batch_size_schedule) if args.batch_size_schedule else (Fraction(1),)
        self.schedule = [sampler.settings.scaled(fraction) for fraction in fractions]
        self.counter = StepCounter(sampler.settings.accumulation)
        data, batches = StepDataset(sampler.examples), StepSampler(sampler, self.counter)
        self.loader = _make_loader(args, dataset=data, batch_sampler=batches, collate_fn=collator)

    def __iter__(self) -> Iterator[list[Batch]]:
        position = self.start
        while True:
            settings = self.counter.step_after(0).choose(self.schedule)
            if (position, settings) != (self.start, self.sampler.settings):
                self.sampler.set_epoch(*position, settings)
            self.counter.accumulation, self.steps_taken = settings.accumulation, 0
            self.loader.set_epoch(self.sampler.epoch)
            batches = iter(self.loader)
            for _ in range(self.sampler.num_steps - self.sampler.steps_done):
                if self.counter.step_after(self.steps_taken).choose(self.schedule) != settings:
                    break
                self.steps_taken += 1
                yield list(islice(batches, settings.accumulation))
            self.counter.first += self.steps_taken
            position = self.sampler.position_after(self.steps_taken)

    @property
    def epoch(self) -> float:
        """Return the epochs done."""
        return self.sampler.epoch + self.sampler.fraction_done(self.steps_taken)

    @property
    def ends_epoch(self) -> bool:
        """Return whether the last step taken ended an epoch."""
        return self.state_dict()["epoch"] > self.sampler.epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch to resume in, and its history of batch settings and steps."""
        epoch, history = self.sampler.position_after(self.steps_taken)
        return {"epoch": epoch, "history": [(asdict(settings), steps) for settings, steps in history]}


class TextStream:
    """Yield the optimizer steps of examples that are made while the text is read.

    Attributes:
        batches: the batches of this process, regardless of steps.
    """

    steps_in_epoch, epoch, ends_epoch = None, None, False

    def __init__(self, batches: StreamedBatches | MixedBatches, collator: Collator, args):
        self.batches, self.states, self.batches_taken = batches, list(batches.states), 0
        self.accumulation = args.gradient_accumulation_steps
        self.counter = StepCounter(self.accumulation)
        data = StepStream(batches, self.counter)
        self.loader = _make_loader(args, dataset=data, batch_size=None, collate_fn=partial(_collate, collator))

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
        """Return the states of all processes by data-loader worker, next worker first; waits for all processes."""
        turn = self.batches_taken % len(self.states)
        return {"workers": gather_object([self.states[turn:] + self.states[:turn]])}


def _collate(collator: Collator, item: tuple[list[dict], tuple]) -> Batch:
    """Make a batch of a stream, with its worker and the state from which that resumes."""
    examples, state = item
    return collator(examples) | {"stream": state}
