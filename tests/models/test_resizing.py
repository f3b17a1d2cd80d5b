"""Weights of another vocabulary: kept rows, means of rows, dimensions, precision."""

import torch

from cloze.models.resizing import average_rows

PIECES = [[2], [0, 3], [], [1, 1, 2], [0]]


def test_rows_are_means_of_rows():
    weights = torch.randn(4, 7)
    rows = average_rows(weights, PIECES, 0)
    assert torch.equal(rows[0], weights[2])
    assert torch.equal(rows[4], weights[0])
    torch.testing.assert_close(rows[1], weights[[0, 3]].mean(0))
    torch.testing.assert_close(rows[2], weights.mean(0))
    torch.testing.assert_close(rows[3], weights[[1, 1, 2]].mean(0))


def test_the_vocabulary_may_be_any_dimension():
    weights = torch.randn(4, 7)
    rows = average_rows(weights, PIECES, 0)
    torch.testing.assert_close(average_rows(weights.T, PIECES, 1), rows.T)
    torch.testing.assert_close(average_rows(weights[:, 0], PIECES, 0), rows[:, 0])


def test_means_of_16_bit_weights_are_computed_in_32():
    weights = torch.tensor([[2048.0], [1.0], [1.0], [1.0]], dtype=torch.bfloat16)
    rows = average_rows(weights, [[0, 1, 2, 3], [3]], 0)
    assert rows.dtype == torch.bfloat16
    assert rows[0] == torch.tensor(2051 / 4).to(torch.bfloat16)
    assert torch.equal(rows[1], weights[3])
