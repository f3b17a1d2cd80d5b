"""Check the micro-batches of optimizer steps in train streams, across epochs and after resuming."""

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import data_loader

from cloze.config.arguments import TrainingArguments
from cloze.data.collators import Padding
from cloze.data.samplers import BatchSettings, EpochDataset
from cloze.errors import UserError
from cloze.training.resume import ResumableTrainer
from cloze.training.stream import open_stream


class Numbers:
    """Return examples with their number; each epoch has one example fewer."""

    def __init__(self, count):
        self.lengths = np.full(count, 4)

    def __getitem__(self, number):
        return {"number": number}


def collate(examples):
    numbers = torch.tensor([[example["epoch"], example["number"]] for example in examples])
    return {"numbers": numbers, "step": torch.tensor(examples[0]["step"])}


def stream_of(state=None, accumulation=3, workers=0, world_size=1, non_blocking=False, schedule=None):
    args = SimpleNamespace(
        device=torch.device("cpu"),
        shuffle_seed=5,
        process_index=0,
        world_size=world_size,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        accelerator_config=SimpleNamespace(non_blocking=non_blocking),
        dataloader_persistent_workers=False,
        dataloader_prefetch_factor=None,
        dataloader_multiprocessing_context=None,
        batch_size_schedule=schedule,
    )
    data = EpochDataset(lambda epoch: Numbers(10 - epoch))
    return open_stream(data, BatchSettings("random", 2, accumulation), Padding(), collate, args, state)


def taken(steps):
    return [[batch["numbers"].tolist() for batch in step] for step in steps]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_has_fewer_micro_batches_at_the_end_of_an_epoch(workers):
    """10 examples by 2 make steps of 3 and 2 micro-batches; then 9 make steps of 3, and of 2 with 3 examples."""
    stream = stream_of(workers=workers)
    assert stream.steps_in_epoch == 2
    seen, steps = [], iter(stream)
    for step in islice(steps, 4):
        seen.append(([len(batch["numbers"]) for batch in step], stream.epoch, stream.ends_epoch))
    assert seen == [
        ([2, 2, 2], 0.5, False),
        ([2, 2], 1.0, True),
        ([2, 2, 2], 1.5, False),
        ([1, 2], 2.0, True),
    ]


def test_each_example_comes_once_an_epoch():
    first, second, third, fourth = taken(islice(iter(stream_of()), 4))
    numbers = [
        [number for batch in [*one, *two] for number in batch] for one, two in ((first, second), (third, fourth))
    ]
    assert sorted(numbers[0]) == [[0, number] for number in range(10)]
    assert sorted(numbers[1]) == [[1, number] for number in range(9)]


@pytest.mark.parametrize("steps_done", range(1, 6))
def test_a_stream_is_resumed_after_any_step(steps_done):
    """The state passes through JSON, as in a checkpoint."""
    whole = taken(islice(iter(stream_of()), 8))
    stream = stream_of()
    assert taken(islice(iter(stream), steps_done)) == whole[:steps_done]
    state = json.loads(json.dumps(stream.state_dict()))
    assert state["epoch"] == steps_done // 2
    assert len(state["history"]) == steps_done % 2
    resumed = stream_of(state)
    assert resumed.epoch == steps_done / 2
    assert resumed.steps_in_epoch == 2
    assert taken(islice(iter(resumed), 8 - steps_done)) == whole[steps_done:]


@pytest.mark.parametrize("non_blocking", [False, True])
def test_batches_are_copied_as_the_arguments_say(non_blocking, monkeypatch):
    copies = []

    def copy(batch, device, **settings):
        copies.append((device, settings))
        return batch

    monkeypatch.setattr(data_loader, "send_to_device", copy)
    next(iter(stream_of(non_blocking=non_blocking)))
    assert copies[0] == (torch.device("cpu"), {"non_blocking": non_blocking})


@pytest.mark.parametrize(
    ("device", "pins", "expected"), [("cuda", True, True), ("cuda", False, False), ("mps", True, False)]
)
def test_only_a_gpu_copies_pinned_batches_without_waiting(device, pins, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "device", torch.device(device))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    args = TrainingArguments(output_dir=str(tmp_path), dataloader_pin_memory=pins)
    assert args.accelerator_config.non_blocking is expected


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_their_step_across_epochs_and_after_resuming(workers):
    """Epochs have two steps, the second with fewer micro-batches: 2, 2 and 1."""

    def steps_of(stream, count):
        return [[tuple(batch["step"].tolist()) for batch in step] for step in islice(iter(stream), count)]

    whole = [[(number, 6)] * count for number, count in enumerate((3, 2, 3, 2, 3, 1))]
    for steps_done in (0, 3, 4):
        stream = stream_of(workers=workers)
        stream.counter.total = 6
        assert steps_of(stream, steps_done) == whole[:steps_done]
        resumed = stream_of(stream.state_dict(), workers=workers)
        resumed.counter.first, resumed.counter.total = steps_done, 6
        assert steps_of(resumed, 6 - steps_done) == whole[steps_done:]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_grow_with_the_steps(workers):
    """Of 4 batches of 2: one in steps 0 and 1, two in 2 and 3, four in 4 and 5. Epochs have 10 and 9 examples."""

    def stream_at(step, state=None):
        stream = stream_of(state, accumulation=4, workers=workers, schedule="0.25:0.5:1")
        stream.counter.first, stream.counter.total = step, 6
        return stream

    whole, steps = stream_at(0), []
    for step in islice(iter(whole), 6):
        steps.append((taken([step])[0], [tuple(batch["step"].tolist()) for batch in step], whole.epoch))
    counts = [[len(numbers) for numbers in batches] for batches, _, _ in steps]
    assert counts == [[2], [2], [2, 2], [2], [2, 2, 2, 2], [1]]
    assert [places for _, places, _ in steps] == [[(number, 6)] * len(counts[number]) for number in range(6)]
    assert [epoch for _, _, epoch in steps] == pytest.approx([0.2, 0.4, 0.7, 1.0, 1.5, 2.0])
    seen = [tuple(number) for batches, _, _ in steps for numbers in batches for number in numbers]
    assert sorted(seen) == [(0, number) for number in range(10)] + [(1, number) for number in range(9)]
    for done in range(1, 6):
        stream = stream_at(0)
        assert taken(islice(iter(stream), done)) == [batches for batches, _, _ in steps[:done]]
        resumed = stream_at(done, json.loads(json.dumps(stream.state_dict())))
        assert taken(islice(iter(resumed), 6 - done)) == [batches for batches, _, _ in steps[done:]]
        assert resumed.epoch == 2.0


def test_fewer_examples_than_processes_are_refused():
    with pytest.raises(UserError, match="10 examples for 11 processes: give more text, or use fewer processes"):
        stream_of(world_size=11)


def test_empty_micro_batches_come_before_those_of_a_short_step():
    """The Trainer synchronizes gradients in the last micro-batch of a step."""
    trainer = SimpleNamespace(
        control=SimpleNamespace(should_training_stop=False),
        count_targets=lambda batches: torch.tensor([len(batches)]),
    )
    steps = iter(stream_of())
    full, targets = ResumableTrainer.get_batch_samples(trainer, steps, 3, torch.device("cpu"))
    short, fewer_targets = ResumableTrainer.get_batch_samples(trainer, steps, 3, torch.device("cpu"))
    assert [len(batch["numbers"]) for batch in full] == [2, 2, 2]
    assert [list(batch) for batch in short] == [["input_ids"], list(full[0]), list(full[0])]
    assert short[0]["input_ids"].numel() == 0
    assert (targets.tolist(), fewer_targets.tolist()) == ([3], [2])
    trainer.args = SimpleNamespace(device=torch.device("cpu"))
    assert ResumableTrainer.training_step(trainer, None, short[0], fewer_targets).item() == 0
