"""The loss and the metrics against torch's own, and against plain counting in float64."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import CrossEntropyLoss
from transformers import PretrainedConfig

from cloze.config.arguments import TrainingArguments
from cloze.data.collators import Padding, masked_positions
from cloze.objectives.metrics import (
    MASKED_TOKENS,
    SENTENCE_PAIRS,
    finite,
    perplexity,
    score_pairs,
    score_tokens,
    summarise_pairs,
    summarise_tokens,
)
from cloze.training.throughput import ThroughputMeter
from cloze.training.trainer import PretrainingTrainer

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


@pytest.fixture
def pair_logits():
    return (3 * torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(2))).requires_grad_()


@pytest.fixture
def pair_labels():
    """Two are not known."""
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0])
    labels[[3, 7]] = -100
    return labels


def of_tokens(logits, labels, multiple=32):
    """What score_tokens takes: the logits at masked positions, and the batch."""
    positions = torch.from_numpy(masked_positions(labels.numpy(), multiple))
    return logits.flatten(0, 1)[positions][None], {"labels": labels, "masked_positions": positions}


def of_pairs(logits, labels):
    return logits, {"next_sentence_label": labels}


class Table(nn.Module):
    """A model that looks its answers up, by the number of the example and the places in the batch."""

    config, dtype = PretrainedConfig(), torch.float32

    def __init__(self, logits, pair_logits):
        super().__init__()
        self.logits, self.pair_logits = nn.Parameter(logits.detach()), nn.Parameter(pair_logits.detach())

    def forward(self, rows, attention_mask, masked_positions):
        chosen = self.logits[rows].flatten(0, 1)[masked_positions]
        return {"prediction_logits": chosen[None], "seq_relationship_logits": self.pair_logits[rows]}


def batch_of(rows, labels, pair_labels):
    return of_tokens(torch.zeros(len(rows), LENGTH, 1), labels[rows])[1] | {
        "rows": rows,
        "attention_mask": torch.ones(len(rows), LENGTH, dtype=torch.int64),
        "next_sentence_label": pair_labels[rows],
    }


class Step:
    """An optimizer step of the trainer: its loss, summed over micro-batches, and the gradient of the logits."""

    def __init__(self, logits, pair_logits, label_smoothing, tmp_path):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, label_smoothing_factor=label_smoothing)
        objectives = {"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}
        self.trainer = PretrainingTrainer(args, objectives, padding=Padding(), model=Table(logits, pair_logits))

    def __call__(self, labels, pair_labels, sizes):
        model = self.trainer.model
        model.zero_grad()
        batches = [batch_of(rows, labels, pair_labels) for rows in torch.arange(BATCH).split(sizes)]
        num_items = self.trainer.count_targets(batches)
        assert num_items.tolist() == [(labels != -100).sum(), (pair_labels != -100).sum()]
        total = sum(self.trainer.compute_loss(model, batch, num_items_in_batch=num_items) for batch in batches)
        total.backward()
        return total.detach(), model.logits.grad, model.pair_logits.grad


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


# The loss of a step


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_of_one_batch_is_torchs_mean(label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path):
    """The sum of the means over tokens and over pairs, and of each the gradient."""
    step = Step(logits, pair_logits, label_smoothing, tmp_path)
    loss, token_gradient, pair_gradient = step(labels, pair_labels, [BATCH])
    mean = CrossEntropyLoss(label_smoothing=label_smoothing)
    expected, expected_pairs = mean(logits.view(-1, VOCABULARY), labels.view(-1)), mean(pair_logits, pair_labels)
    torch.testing.assert_close(loss, expected.detach() + expected_pairs.detach())
    torch.testing.assert_close(token_gradient, gradient(expected, logits))
    torch.testing.assert_close(pair_gradient, gradient(expected_pairs, pair_logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [[1] * 12, [2, 10], [5, 1, 6], [12]])
def test_micro_batches_add_up_to_the_whole_batch(
    sizes, label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path
):
    """Mistake 2: a mean of means would weigh tokens, and pairs, unequally."""
    step = Step(logits, pair_logits, label_smoothing, tmp_path)
    for cut, whole in zip(step(labels, pair_labels, sizes), step(labels, pair_labels, [12]), strict=True):
        torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("num_items", [0, 17])
def test_nothing_masked_gives_zero(num_items, logits, pair_logits, tmp_path):
    """Mistake 22: not NaN, with a gradient of zeros, so that the step of other micro-batches is not spoilt."""
    trainer = Step(logits, pair_logits, 0.0, tmp_path).trainer
    batch = batch_of(torch.arange(BATCH), torch.full((BATCH, LENGTH), -100), torch.full((BATCH,), -100))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor([num_items, num_items]))
    assert loss.item() == 0
    loss.backward()
    assert trainer.model.logits.grad.tolist() == torch.zeros_like(logits).tolist()
    assert trainer.model.pair_logits.grad.tolist() == torch.zeros_like(pair_logits).tolist()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_of_a_step_asks_the_device_for_nothing(
    label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path
):
    """On the meta device there are shapes and no values: whatever waited for one would fail."""
    trainer = Step(logits, pair_logits, label_smoothing, tmp_path).trainer
    meta = torch.device("meta")
    model, trainer.running, trainer.meter = (
        trainer.model.to(meta),
        trainer.running.to(meta),
        ThroughputMeter(None, 1.0, meta),
    )
    batch = {name: values.to(meta) for name, values in batch_of(torch.arange(BATCH), labels, pair_labels).items()}
    trainer.compute_loss(model, batch, num_items_in_batch=torch.ones(2, device=meta)).backward()
    with torch.no_grad():
        assert [scores.shape for scores in trainer.score(model, batch)] == [(BATCH, 3), (BATCH, 7)]


# Masked tokens


@pytest.mark.parametrize("multiple", [1, 7, 32, 10**6])
def test_positions_without_a_label_do_not_count(multiple, logits, labels):
    """Their number is rounded up with some place or other; neither scores nor gradients know."""
    chosen, batch = of_tokens(logits, labels, multiple)
    scores = score_tokens(chosen, batch, 0.1)
    expected_chosen, expected_batch = of_tokens(logits, labels, 1)
    expected = score_tokens(expected_chosen, expected_batch, 0.1)
    assert len(expected_batch["masked_positions"]) == (labels != -100).sum()
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradient(scores.sum(), logits), gradient(expected.sum(), logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_losses_of_tokens_are_torchs_sum(label_smoothing, logits, labels):
    loss = score_tokens(*of_tokens(logits, labels), label_smoothing)[:, 0].sum()
    total = CrossEntropyLoss(label_smoothing=label_smoothing, reduction="sum")
    expected = total(logits.view(-1, VOCABULARY), labels.view(-1))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits))


def test_no_token_masked_scores_zero(logits):
    scores = score_tokens(*of_tokens(logits, torch.full((BATCH, LENGTH), -100)))
    assert scores.tolist() == [[0, 0, 0]] * BATCH
    assert gradient(scores.sum(), logits).tolist() == torch.zeros_like(logits).tolist()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_of_half_precision_is_computed_in_single(label_smoothing, logits, labels, pair_logits, pair_labels):
    for score, (values, batch) in (
        (score_tokens, of_tokens(logits.detach().bfloat16(), labels)),
        (score_pairs, of_pairs(pair_logits.detach().bfloat16(), pair_labels)),
    ):
        scores = score(values, batch, label_smoothing)
        assert scores.dtype == torch.float32
        assert scores.tolist() == score(values.float(), batch, label_smoothing).tolist()


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [4, 4, 4], [11, 1], [1, 2, 9]])
def test_evaluation_does_not_depend_on_the_batches(sizes, logits, labels):
    """Mistakes 2 and 21: a sum over a count, of three sums an example."""
    pieces = zip(logits.detach().split(sizes), labels.split(sizes), strict=True)
    results = [score_tokens(*of_tokens(*pair)) for pair in pieces]
    assert [tuple(scores.shape) for scores in results] == [(n, 3) for n in sizes]
    scores = torch.cat(results).numpy()
    assert scores[:, 1].tolist() == (labels != -100).sum(1).tolist()
    metrics = summarise_tokens(scores.astype(np.float64))

    values, targets = logits.detach().double().numpy(), labels.numpy()
    losses = [
        np.log(np.exp(values[row, place]).sum()) - values[row, place, targets[row, place]]
        for row, place in np.argwhere(targets != -100)
    ]
    hits = (values.argmax(-1) == targets)[targets != -100]
    assert 0 < hits.sum() < len(hits)
    assert metrics.keys() == {"loss", "perplexity", "accuracy", "masked_tokens"}
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert metrics["accuracy"] == hits.mean()
    assert metrics["masked_tokens"] == len(losses)


def test_sums_of_an_example_are_its_own():
    """Logits [2, 0] and [0, 2] where 0 is to be predicted: one hit, losses log(1 + e^-2) and log(1 + e^2)."""
    logits = torch.tensor([[[1.0, 0.0]] * 3, [[9.0, 0.0], [2.0, 0.0], [0.0, 2.0]], [[0.0, 3.0]] * 3])
    scores = score_tokens(*of_tokens(logits, torch.tensor([[-100] * 3, [-100, 0, 0], [1, -100, -100]])))
    two = math.log1p(math.exp(-2)) + math.log1p(math.exp(2))
    assert scores.flatten().tolist() == pytest.approx([0, 0, 0, two, 2, 1, math.log1p(math.exp(-3)), 1, 1])


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (math.log(50), 50.0), (1000.0, sys.float_info.max)])
def test_perplexity(loss, expected):
    assert perplexity(loss) == pytest.approx(expected)


def test_perplexity_of_a_diverged_model():
    assert math.isnan(perplexity(math.nan))


def test_what_json_has_no_words_for_is_null():
    value = {"norm": math.inf, "losses": [1.5, math.nan, -math.inf], "none": None, "step": 3, "text": "inf"}
    assert finite(value) == {"norm": None, "losses": [1.5, None, None], "none": None, "step": 3, "text": "inf"}
    json.dumps(finite(value), allow_nan=False)


# Sentence pairs


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_losses_of_pairs_are_torchs(label_smoothing, pair_logits, pair_labels):
    """Pair by pair, and in their gradient; 0 where the label is not known."""
    losses = score_pairs(*of_pairs(pair_logits, pair_labels), label_smoothing)[:, 0]
    expected = CrossEntropyLoss(label_smoothing=label_smoothing, reduction="none")(pair_logits, pair_labels)
    torch.testing.assert_close(losses, expected)
    assert losses[[3, 7]].tolist() == [0, 0]
    torch.testing.assert_close(gradient(losses.sum(), pair_logits), gradient(expected.sum(), pair_logits))


def test_label_smoothing_changes_the_loss_of_pairs_and_nothing_else(pair_logits, pair_labels):
    """With 0.2, the other label has a tenth: logits [2, 0] and label 0 give log(1 + e^-2) + 0.1 * 2."""
    plain, smoothed = (score_pairs(*of_pairs(pair_logits, pair_labels), smoothing) for smoothing in (0.0, 0.2))
    assert (plain[:, 0] != smoothed[:, 0]).tolist() == (pair_labels != -100).tolist()
    assert plain[:, 1:].tolist() == smoothed[:, 1:].tolist()
    loss = score_pairs(*of_pairs(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), 0.2)[0, 0].item()
    assert loss == pytest.approx(math.log1p(math.exp(-2)) + 0.2)


def test_scores_of_a_pair_are_its_own():
    """Loss, count, hit, random and found so, found random, random, probability of random."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    scores = score_pairs(*of_pairs(logits, torch.tensor([0, 1, 1, 0, -100]))).tolist()
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    low, high = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))
    assert scores == [
        pytest.approx([right, 1, 1, 0, 0, 0, low]),
        pytest.approx([right, 1, 1, 1, 1, 1, high]),
        pytest.approx([wrong, 1, 0, 0, 0, 1, low]),
        pytest.approx([wrong, 1, 0, 0, 1, 0, high]),
        pytest.approx([0, 0, 0, 0, 0, 0, high]),
    ]


def test_pairs_of_unknown_labels_count_nothing_and_are_judged(pair_logits):
    """None of them spoils the loss with NaN, and the model's judgement is still there."""
    scores = score_pairs(*of_pairs(pair_logits, torch.full((BATCH,), -100)))
    assert scores[:, :-1].tolist() == [[0] * 6] * BATCH
    assert scores[:, -1].tolist() == pair_logits.softmax(-1)[:, 1].tolist()
    assert gradient(scores[:, 0].sum(), pair_logits).tolist() == [[0, 0]] * BATCH


def count_pairs(logits, labels) -> dict[str, float]:
    """The metrics by counting one by one, in double precision."""
    pairs = [(a, b, label) for (a, b), label in zip(logits, labels, strict=True) if label != -100]
    losses = [math.log(math.exp(a) + math.exp(b)) - (a, b)[label] for a, b, label in pairs]
    outcomes = [(int(b > a), label) for a, b, label in pairs]
    true_positives = outcomes.count((1, 1))
    false_positives, false_negatives = outcomes.count((1, 0)), outcomes.count((0, 1))
    positives = 2 * true_positives + false_positives + false_negatives
    return {
        "loss": sum(losses) / len(pairs),
        "accuracy": (true_positives + outcomes.count((0, 0))) / len(pairs),
        "f1": 2 * true_positives / positives if positives else 0.0,
        "is_next": [label for _, label in outcomes].count(0) / len(pairs),
        "pairs": len(pairs),
    }


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [4, 4, 4], [11, 1], [1, 2, 9]])
def test_evaluation_of_pairs_does_not_depend_on_the_batches(sizes, pair_logits, pair_labels):
    pieces = zip(pair_logits.detach().split(sizes), pair_labels.split(sizes), strict=True)
    results = [score_pairs(*of_pairs(*pair)) for pair in pieces]
    assert [tuple(scores.shape) for scores in results] == [(n, 7) for n in sizes]
    metrics = summarise_pairs(torch.cat(results).double().numpy())
    expected = count_pairs(pair_logits.tolist(), pair_labels.tolist())
    assert 0 < expected["accuracy"] < 1
    assert 0 < expected["f1"] < 1
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert (metrics["pairs"], metrics["is_next"]) == (10, 0.6)


# Far enough apart that single precision takes the two for different numbers.
LOGITS = st.lists(st.integers(-80, 80).map(lambda value: value / 8), min_size=2, max_size=2, unique=True)


@given(st.lists(st.tuples(LOGITS, st.sampled_from([0, 1, -100])), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_metrics_of_pairs_are_those_of_counting(pairs):
    logits, labels = zip(*pairs, strict=True)
    scores = score_pairs(*of_pairs(torch.tensor(logits), torch.tensor(labels))).double().numpy()
    assert scores[:, 1].tolist() == [label != -100 for label in labels]
    assert scores[:, 6].tolist() == pytest.approx([1 / (1 + math.exp(a - b)) for a, b in logits], abs=1e-6)
    if set(labels) != {-100}:
        assert summarise_pairs(scores) == pytest.approx(count_pairs(logits, labels), rel=1e-5, abs=1e-6)


def test_metrics_of_pairs_where_none_is_random_and_none_found():
    """No 0 / 0: F1 is 0 where there is nothing to find and nothing found."""
    metrics = summarise_pairs(np.array([[0.75, 3.0, 3.0, 0.0, 0.0, 0.0, 0.2]]))
    assert metrics == {"loss": 0.25, "accuracy": 1.0, "f1": 0.0, "is_next": 1.0, "pairs": 3}


def test_f1_of_pairs_is_that_of_the_random_ones():
    """Of 10 pairs 4 are random and 5 are found random, 3 of them rightly: precision 3/5, recall 3/4, F1 2/3."""
    metrics = summarise_pairs(np.array([[5.0, 10.0, 7.0, 3.0, 5.0, 4.0, 4.4]]))
    assert metrics == pytest.approx({"loss": 0.5, "accuracy": 0.7, "f1": 2 / 3, "is_next": 0.6, "pairs": 10})


# Where a model's outputs have them


@pytest.mark.parametrize(
    ("names", "of_tokens", "of_pairs"),
    [
        (["logits"], "logits", "logits"),
        (["prediction_logits", "seq_relationship_logits"], "prediction_logits", "seq_relationship_logits"),
        (["prediction_logits", "sop_logits"], "prediction_logits", "sop_logits"),
    ],
)
def test_logits_by_the_names_that_models_give_them(names, of_tokens, of_pairs):
    outputs = {name: name for name in [*names, "hidden_states"]}
    assert MASKED_TOKENS.logits_of(outputs) == of_tokens
    assert SENTENCE_PAIRS.logits_of(outputs) == of_pairs
