"""The loss and the metrics against torch's own, and against plain counting in float64."""

import math

import numpy as np
import pytest
import torch
from torch.nn import CrossEntropyLoss
from transformers import EvalPrediction

from cloze.metrics import masked_lm_loss, masked_lm_sums, perplexity, summarise

BATCH, LENGTH, VOCABULARY = 12, 10, 23


@pytest.fixture
def logits():
    return (3 * torch.randn(BATCH, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.fixture
def labels():
    """Of unequal numbers: none in example 0, all in example 1, some in the others."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    labels[torch.rand(BATCH, LENGTH, generator=generator) < torch.arange(BATCH)[:, None] / BATCH] = -100
    labels[0] = -100
    labels[1] = torch.arange(LENGTH)
    return labels


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_of_one_batch_is_torchs_mean(label_smoothing, logits, labels):
    loss = masked_lm_loss(logits, labels, (labels != -100).sum(), label_smoothing)
    expected = CrossEntropyLoss(label_smoothing=label_smoothing)(logits.view(-1, VOCABULARY), labels.view(-1))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [[1] * 12, [2, 10], [5, 1, 6], [12]])
def test_micro_batches_add_up_to_the_whole_batch(sizes, label_smoothing, logits, labels):
    """Mistake 2: a mean of means would weigh tokens unequally."""
    count = (labels != -100).sum()
    pieces = zip(logits.split(sizes), labels.split(sizes), strict=True)
    total = sum(masked_lm_loss(piece, targets, count, label_smoothing) for piece, targets in pieces)
    whole = masked_lm_loss(logits, labels, count, label_smoothing)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(gradient(total, logits), gradient(whole, logits))


@pytest.mark.parametrize("num_items", [0, 17])
def test_nothing_masked_gives_zero(num_items, logits):
    """Mistake 22: not NaN, with a gradient of zeros, so that the step of other micro-batches is not spoilt."""
    loss = masked_lm_loss(logits, torch.full((BATCH, LENGTH), -100), torch.tensor(num_items))
    assert loss.item() == 0
    assert gradient(loss, logits).tolist() == torch.zeros_like(logits).tolist()


def test_loss_of_half_precision_is_computed_in_single(logits, labels):
    half = logits.detach().bfloat16()
    count = (labels != -100).sum()
    assert masked_lm_loss(half, labels, count).item() == masked_lm_loss(half.float(), labels, count).item()
    assert masked_lm_sums(half, labels)[0].tolist() == masked_lm_sums(half.float(), labels)[0].tolist()


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [4, 4, 4], [11, 1], [1, 2, 9]])
def test_evaluation_does_not_depend_on_the_batches(sizes, logits, labels):
    """Mistakes 2 and 21: a sum over a count, of two sums and a count an example."""
    results = [masked_lm_sums(*pair) for pair in zip(logits.detach().split(sizes), labels.split(sizes), strict=True)]
    assert [(tuple(sums.shape), tuple(counts.shape)) for sums, counts in results] == [((n, 2), (n,)) for n in sizes]
    sums, counts = (torch.cat(parts).numpy() for parts in zip(*results, strict=True))
    assert counts.tolist() == (labels != -100).sum(1).tolist()
    metrics = summarise(EvalPrediction(predictions=sums, label_ids=counts))

    values, targets = logits.detach().double().numpy(), labels.numpy()
    losses = [
        np.log(np.exp(values[row, place]).sum()) - values[row, place, targets[row, place]]
        for row, place in np.argwhere(targets != -100)
    ]
    hits = (values.argmax(-1) == targets)[targets != -100]
    assert 0 < hits.sum() < len(hits)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert metrics["accuracy"] == hits.mean()
    assert metrics["masked_tokens"] == len(losses)


def test_sums_of_an_example_are_its_own():
    """Logits [2, 0] and [0, 2] where 0 is to be predicted: one hit, losses log(1 + e^-2) and log(1 + e^2)."""
    logits = torch.tensor([[[1.0, 0.0]] * 3, [[9.0, 0.0], [2.0, 0.0], [0.0, 2.0]], [[0.0, 3.0]] * 3])
    sums, counts = masked_lm_sums(logits, torch.tensor([[-100] * 3, [-100, 0, 0], [1, -100, -100]]))
    two = math.log1p(math.exp(-2)) + math.log1p(math.exp(2))
    assert sums.flatten().tolist() == pytest.approx([0, 0, two, 1, math.log1p(math.exp(-3)), 1])
    assert counts.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.0, 1.0), (math.log(50), 50.0), (1000.0, math.inf), (math.inf, math.inf)]
)
def test_perplexity(loss, expected):
    assert perplexity(loss) == pytest.approx(expected)


def test_perplexity_of_a_diverged_model():
    assert math.isnan(perplexity(math.nan))
