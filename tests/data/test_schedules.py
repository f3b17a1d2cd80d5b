"""Check the step that training examples get, and what changes with it."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from cloze.data.schedules import Step, StepCounter, StepDataset, StepSampler, StepStream, cut_rows


def test_a_value_goes_from_the_first_to_the_last_step_linearly():
    values = [Step(number, 5).between(0.5, 0.1) for number in range(5)]
    assert values == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-12)
    assert values[0] == 0.5
    assert Step(0, 1).between(0.3, 0.1) == 0.3


def test_a_constant_value_is_exact():
    assert {Step(number, 7).between(0.15, 0.15) for number in range(7)} == {0.15}


def test_values_share_the_steps_equally():
    assert [Step(number, 7).choose((16, 32, 64)) for number in range(7)] == [16, 16, 16, 32, 32, 64, 64]
    assert [Step(number, 4).choose((16, 16, 16, 64)) for number in range(4)] == [16, 16, 16, 64]


@given(st.integers(1, 10**9), st.integers(1, 6), st.data())
def test_a_part_has_its_share_of_the_steps(total, parts, data):
    number = data.draw(st.integers(0, total - 1))
    assert Step(number, total).choose(range(parts)) == int(Fraction(number, total) * parts)


def test_the_step_of_a_batch_follows_from_its_number():
    """Batches beyond the last step, which loaders make in advance, count to the last one."""
    counter = StepCounter(accumulation=2, first=7, total=10)
    assert [counter.step_of(batch).number for batch in range(8)] == [7, 7, 8, 8, 9, 9, 9, 9]
    assert counter.step_of(0) == Step(7, 10)


def test_examples_of_a_sampler_get_their_step():
    batches = StepSampler([["a", "b"], ["c"], ["d"]], StepCounter(accumulation=2, first=3, total=9))
    assert list(batches) == [[("a", (3, 9)), ("b", (3, 9))], [("c", (3, 9))], [("d", (4, 9))]]
    examples = StepDataset({"a": {"example": 5}})
    assert examples["a", Step(3, 9)] == {"example": 5, "step": (3, 9)}


class Batches(IterableDataset):
    """Yield batches of one example without end."""

    def __iter__(self):
        while True:
            yield [{"example": 5}], "state"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_examples_of_a_stream_get_their_step(workers):
    """Also across data-loader workers, which make batches in turn."""
    stream = StepStream(Batches(), StepCounter(accumulation=2, first=4, total=100))
    loader = iter(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=lambda item: item))
    batches = [next(loader) for _ in range(8)]
    assert [examples[0]["step"] for examples, _ in batches] == [(number, 100) for number in (4, 4, 5, 5, 6, 6, 7, 7)]
    assert batches[0] == ([{"example": 5, "step": (4, 100)}], "state")


def test_rows_are_cut_and_rows_of_padding_are_dropped():
    batch = {
        "input_ids": np.array([[2, 7, 8, 9, 5, 3], [2, 5, 3, 0, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
    }
    cut = {name: values.tolist() for name, values in cut_rows(batch, 2).items()}
    assert cut == {
        "input_ids": [[2, 7], [8, 9], [5, 3], [2, 5], [3, 0]],
        "attention_mask": [[1, 1], [1, 1], [1, 1], [1, 1], [1, 0]],
    }
