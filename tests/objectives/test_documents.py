"""Test sums by document against loops, and the coverage of the interval on simulated losses."""

import numpy as np
import pytest
import torch

from cloze.objectives import documents as module
from cloze.objectives.documents import DocumentSums, change_of_loss, split_by_document, sum_by_document


def sums(loss, count):
    return DocumentSums(list(map(float, loss)), list(map(float, count)))


def test_values_are_added_by_part():
    values = torch.arange(1.0, 13.0).view(2, 3, 2)
    ends = torch.tensor([[1, 3], [2, -100]])
    expected = [[[1, 2], [3 + 5, 4 + 6]], [[7 + 9, 8 + 10], [0, 0]]]
    assert split_by_document(values, ends).tolist() == expected


def test_parts_are_added_by_document():
    documents = np.array([[7, 3], [3, -100], [5, 7]])
    loss = np.array([[1.0, 2.0], [4.0, 99.0], [8.0, 16.0]])
    count = np.array([[1.0, 1.0], [2.0, 99.0], [0.0, 3.0]])
    assert sum_by_document(documents, loss, count) == sums([2 + 4, 1 + 16], [1 + 2, 1 + 3])


def test_many_documents_share_groups(monkeypatch):
    monkeypatch.setattr(module, "MAX_GROUPS", 2)
    documents = np.array([[10], [11], [12], [13], [14]])
    loss, count = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]]), np.ones((5, 1))
    assert sum_by_document(documents, loss, count) == sums([1 + 4 + 16, 2 + 8], [3, 2])


def simulate(rng, documents, change=-0.3):
    """Return sums before and after of documents of different lengths, each with its own change."""
    count = rng.integers(1, 60, documents)
    before = rng.normal(5, 1, documents) * count
    after = before + rng.normal(change, 0.4, documents) * count + rng.normal(0, 0.5, documents) * np.sqrt(count)
    return sums(before, count), sums(after, count)


@pytest.mark.parametrize(("documents", "least", "most"), [(5, 0.80, 0.90), (30, 0.90, 0.97), (200, 0.90, 0.97)])
def test_interval_covers_the_true_change(documents, least, most, monkeypatch):
    """In 95 percent of the sets, if they have enough documents."""
    monkeypatch.setattr(module, "DRAWS", 500)
    covered, runs = 0, 400
    for seed in range(runs):
        change = change_of_loss(*simulate(np.random.default_rng(seed), documents), np.random.default_rng(seed))
        covered += change.low < -0.3 < change.high
    assert least < covered / runs < most


def test_change_is_a_ratio_of_sums_with_the_interval_of_a_loop(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1000)
    before, after = simulate(np.random.default_rng(3), 40)
    change = change_of_loss(before, after, np.random.default_rng(0))
    count = np.array(after.counts)
    assert change.value == pytest.approx((sum(after.losses) - sum(before.losses)) / count.sum())
    rng, drawn = np.random.default_rng(1), []
    for _ in range(10_000):
        chosen = rng.integers(40, size=40)
        losses = (np.array(side.losses)[chosen].sum() / count[chosen].sum() for side in (before, after))
        drawn.append(-np.subtract(*losses))
    widened = change.value + np.sqrt(40 / 39) * (np.array(drawn) - change.value)
    assert (change.low, change.high) == pytest.approx(np.quantile(widened, [0.025, 0.975]), abs=0.01)


def test_same_generator_gives_the_same_interval():
    pair = simulate(np.random.default_rng(0), 20)
    assert change_of_loss(*pair, np.random.default_rng(5)) == change_of_loss(*pair, np.random.default_rng(5))


def test_no_change_has_an_interval_of_zero():
    before, _ = simulate(np.random.default_rng(0), 20)
    assert change_of_loss(before, before, np.random.default_rng(0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [(([5], [2]), ([4], [2])), (([5, 6], [2, 3]), ([4, 5], [3, 2])), (([5, 6], [2, 3]), ([4, 5, 6], [2, 3, 1]))],
    ids=["one document", "other masks", "other documents"],
)
def test_sides_that_cannot_be_compared_have_no_change(before, after):
    assert change_of_loss(sums(*before), sums(*after), np.random.default_rng(0)) is None
