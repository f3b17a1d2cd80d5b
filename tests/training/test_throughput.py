"""Compare throughput with values computed by hand."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from cloze.models.flops import Flops
from cloze.training.throughput import ThroughputMeter

CPU = torch.device("cpu")


def batch_of(lengths, width, labels=None):
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": torch.full_like(mask, 7), "attention_mask": mask}
    if labels is not None:
        batch["labels"] = torch.full((len(lengths), width), -100)
        batch["labels"].view(-1)[:labels] = 7
    return batch


@pytest.fixture
def meter():
    """Return the meter of a device of 1000 FLOPs per second, and of a model with a different cost per quantity."""
    return ThroughputMeter(Flops(1000, 100, 10, 1), 1000.0, CPU)


def test_throughput_of_given_batches(meter):
    """Lengths 4 and 2 in rows of 4, then 3 in one of 8, and 5 labels: 9 tokens of 16 positions, squares 16 + 4 + 9."""
    accelerator = Accelerator(cpu=True)
    meter.add(batch_of([4, 2], 4, labels=3))
    meter.add(batch_of([3], 8, labels=2))
    assert meter.totals(accelerator).tolist() == [3, 16, 9, 29, 5]
    operations = 3 * (3 * 1000 + 9 * 100 + 29 * 10 + 5 * 1)
    assert operations == 12_585
    figures = meter.since_last(accelerator, 2.0)
    assert figures == {"tokens_per_second": 4.5, "non_padding_fraction": 0.5625, "mfu": round(12_585 / 2 / 1000, 4)}


def test_throughput_of_a_batch_without_a_mask(meter):
    """All of its positions are tokens."""
    batch = batch_of([4, 4], 4, labels=3)
    meter.add(batch)
    totals = meter.totals(Accelerator(cpu=True))
    assert totals.tolist() == [2, 8, 8, 32, 3]
    del batch["attention_mask"]
    meter.add(batch)
    assert meter.totals(Accelerator(cpu=True)).tolist() == (2 * totals).tolist()


def test_throughput_covers_the_steps_since_the_last_log(meter):
    accelerator = Accelerator(cpu=True)
    meter.add(batch_of([4, 2], 4, labels=3))
    meter.since_last(accelerator, 2.0)
    meter.add(batch_of([1, 1, 1], 2, labels=0))
    figures = meter.since_last(accelerator, 2.5)
    assert figures == {"tokens_per_second": 6.0, "non_padding_fraction": 0.5, "mfu": round(3 * 3330 / 0.5 / 1000, 4)}
    assert meter.totals(accelerator).tolist() == [5, 14, 9, 23, 3]


def test_mfu_is_relative_to_all_processes(meter):
    one, four = (meter.rates(np.array([3, 16, 9, 29, 5]), 2.0, processes) for processes in (1, 4))
    assert one["mfu"] == pytest.approx(6.2925)
    assert four["mfu"] == pytest.approx(1.5731)
    assert one["tokens_per_second"] == four["tokens_per_second"] == 4.5


def test_throughput_of_batches_without_labels(meter):
    meter.add(batch_of([4, 2], 4))
    assert meter.totals(Accelerator(cpu=True)).tolist() == [2, 8, 6, 20, 0]


def test_mfu_is_absent_without_flops():
    meter = ThroughputMeter(None, math.nan, CPU)
    meter.add(batch_of([4, 4], 4, labels=1))
    figures = meter.since_last(Accelerator(cpu=True), 0.5)
    assert figures == {"tokens_per_second": 16.0, "non_padding_fraction": 1.0}


def test_throughput_does_not_synchronise_the_device():
    """The meta device has no values to wait for."""
    meta = torch.device("meta")
    meter = ThroughputMeter(None, 1.0, meta)
    meter.add({name: values.to(meta) for name, values in batch_of([4, 2], 4, labels=3).items()})
    assert (meter.examples, meter.positions) == (2, 8)
