"""The scores and metrics of next tokens, compared with PyTorch's cross-entropy token by token."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cloze.objectives.next_tokens import score_next_tokens, summarise_next_tokens

TARGETS = torch.tensor([[4, 2, 7, -100], [1, -100, -100, -100], [-100, -100, -100, -100]])


@pytest.fixture
def logits():
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_scores_are_sums_over_the_targets_of_each_example(smoothing, logits):
    scores = score_next_tokens(logits, {"next_tokens": TARGETS}, smoothing)
    expected = [
        cross_entropy(logits[row, :count], TARGETS[row, :count], reduction="sum", label_smoothing=smoothing).item()
        for row, count in enumerate((3, 1, 0))
    ]
    assert scores["loss"].tolist() == pytest.approx(expected, rel=1e-6)
    assert scores["count"].tolist() == [3, 1, 0]
    assert scores["hits"].tolist() == (logits.argmax(-1) == TARGETS).sum(1).tolist()


def test_losses_of_documents_add_up_to_the_loss(logits):
    ends = torch.tensor([[2, 4], [4, -100], [4, -100]])
    documents = {"documents": torch.tensor([[5, 6], [6, -100], [7, -100]]), "document_ends": ends}
    scores = score_next_tokens(logits, {"next_tokens": TARGETS} | documents)
    assert scores["document_count"].tolist() == [[2, 1], [1, 0], [0, 0]]
    torch.testing.assert_close(scores["document_loss"].sum(1), scores["loss"])


def test_metrics_are_ratios_of_sums():
    scores = {
        "loss": np.array([3.0, 5.0]),
        "count": np.array([1.0, 3.0]),
        "hits": np.array([1.0, 0.0]),
        "characters": np.array([2.0, 6.0]),
        "bytes": np.array([4.0, 12.0]),
    }
    assert summarise_next_tokens(scores) == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "bits_per_character": pytest.approx(8 / math.log(2) / 8),
        "bits_per_byte": pytest.approx(8 / math.log(2) / 16),
        "accuracy": 0.25,
        "tokens": 4,
    }


def test_tokens_without_bytes_have_no_bits_per_byte():
    scores = {name: np.ones(2) for name in ("loss", "count", "hits", "characters")} | {"bytes": np.zeros(2)}
    assert "bits_per_byte" not in summarise_next_tokens(scores)
