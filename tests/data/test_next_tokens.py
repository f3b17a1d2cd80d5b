"""Batches whose targets are the next tokens: shift, padding, sizes, and the documents that targets count to."""

import numpy as np
import pytest

from cloze.data.collators import Padding
from cloze.data.next_tokens import collate_next_tokens

SIZES = {"characters": np.array([5, 1, 2, 3, 0]), "bytes": np.array([9, 1, 2, 4, 0])}


def examples(*ids, **fields):
    return [{"input_ids": np.array(each), "example": number} | fields for number, each in enumerate(ids)]


def batch_of(rows, multiple=1, **padding):
    batch = collate_next_tokens(rows, 4, Padding(multiple, **padding), SIZES)
    return {name: values.tolist() for name, values in batch.items()}


def test_targets_are_the_next_tokens():
    """The last token and padding have none; the padding's id is also that of a token in the text."""
    assert batch_of(examples([1, 4, 3], [2, 4], epoch=0), multiple=4) == {
        "input_ids": [[1, 4, 3, 4], [2, 4, 4, 4]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 0, 0]],
        "next_tokens": [[4, 3, -100, -100], [4, -100, -100, -100]],
    }


def test_a_batch_without_padding_needs_no_mask():
    """The padding's id is also that of a token in the text."""
    assert batch_of(examples([1, 4], [2, 4], epoch=0), omit_mask=True) == {
        "input_ids": [[1, 4], [2, 4]],
        "next_tokens": [[4, -100], [4, -100]],
    }


def test_evaluations_have_the_sizes_of_the_predicted_tokens():
    """The first token of an example is not predicted; id 0 is not counted where there is no target."""
    batch = batch_of(examples([1, 2, 3], [3, 0], [2]))
    assert (batch["characters"], batch["bytes"]) == ([5, 5, 0], [6, 9, 0])


def test_the_token_after_a_document_counts_to_it():
    """[7 8] ends with 2 tokens of an earlier document; its separator, 4, is a target of that document."""
    (row,) = examples([1, 2, 4, 3, 3, 4])
    row |= {"documents": np.array([7, 8]), "document_ends": np.array([2, 5])}
    (other,) = examples([1, 2])
    other |= {"documents": np.array([9]), "document_ends": np.array([2])}
    batch = batch_of([row, other])
    assert batch["next_tokens"][0] == [2, 4, 3, 3, 4, -100]
    # Targets 2 and 4 belong to document 7; 3, 3 and 4 to document 8.
    assert batch["document_ends"] == [[2, 6], [6, -100]]
    assert batch["documents"] == [[7, 8], [9, -100]]


@pytest.mark.parametrize("length", [1, 2])
def test_an_example_of_one_token_has_no_target(length):
    batch = batch_of(examples(*[[1] * length] * 2))
    assert batch["next_tokens"] == [[1] * (length - 1) + [-100]] * 2
