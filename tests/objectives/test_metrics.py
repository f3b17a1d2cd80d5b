"""Compare loss and metrics with torch, and with counting in float64."""

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
    by_name,
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


PAIR_SCORES = ("loss", "count", "hits", "both_random", "found_random", "is_random", "probability")


def columns(scores: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the scores as a matrix, [batch, scores]."""
    return torch.stack(list(scores.values()), dim=1)


def pair_scores(matrix: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in by_name(PAIR_SCORES, matrix.double()).items()}


@pytest.fixture
def logits():
    return (3 * torch.randn(BATCH, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.fixture
def labels():
    """Return labels: none in example 0, all in example 1, some in the others."""
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
    """Return labels, two of them unknown."""
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0])
    labels[[3, 7]] = -100
    return labels


def of_tokens(logits, labels, multiple=32):
    """Return the arguments of score_tokens: the logits at masked positions, and the batch."""
    positions = torch.from_numpy(masked_positions(labels.numpy(), multiple))
    return logits.flatten(0, 1)[positions][None], {"labels": labels, "masked_positions": positions}


def of_pairs(logits, labels):
    return logits, {"next_sentence_label": labels}


class Table(nn.Module):
    """A model that looks up its logits by the example's number and the positions in the batch."""

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
    """Return an optimizer step's loss, summed over micro-batches, and the gradient of the logits."""

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
def test_mlm_loss_of_one_batch_equals_torch_mean(label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path):
    """The loss is the sum of the means over tokens and over pairs; gradients match too."""
    step = Step(logits, pair_logits, label_smoothing, tmp_path)
    loss, token_gradient, pair_gradient = step(labels, pair_labels, [BATCH])
    mean = CrossEntropyLoss(label_smoothing=label_smoothing)
    expected, expected_pairs = mean(logits.view(-1, VOCABULARY), labels.view(-1)), mean(pair_logits, pair_labels)
    torch.testing.assert_close(loss, expected.detach() + expected_pairs.detach())
    torch.testing.assert_close(token_gradient, gradient(expected, logits))
    torch.testing.assert_close(pair_gradient, gradient(expected_pairs, pair_logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [[1] * 12, [2, 10], [5, 1, 6], [12]])
def test_mlm_loss_of_micro_batches_adds_up_to_the_batch(
    sizes, label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path
):
    """transformers#37766: a mean of means would weigh tokens, and pairs, unequally."""
    step = Step(logits, pair_logits, label_smoothing, tmp_path)
    for cut, whole in zip(step(labels, pair_labels, sizes), step(labels, pair_labels, [12]), strict=True):
        torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("num_items", [0, 17])
def test_mlm_loss_without_masked_tokens_is_zero(num_items, logits, pair_logits, tmp_path):
    """The loss is 0, not NaN, with a zero gradient, to keep the step of other micro-batches intact."""
    trainer = Step(logits, pair_logits, 0.0, tmp_path).trainer
    batch = batch_of(torch.arange(BATCH), torch.full((BATCH, LENGTH), -100), torch.full((BATCH,), -100))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor([num_items, num_items]))
    assert loss.item() == 0
    loss.backward()
    assert trainer.model.logits.grad.tolist() == torch.zeros_like(logits).tolist()
    assert trainer.model.pair_logits.grad.tolist() == torch.zeros_like(pair_logits).tolist()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_step_loss_does_not_synchronise_the_device(label_smoothing, logits, labels, pair_logits, pair_labels, tmp_path):
    """The meta device has shapes but no values: code that waits for a value would fail."""
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
        shapes = {prefix: columns(scores).shape for prefix, scores in trainer.score(model, batch).items()}
    assert shapes == {"mlm_": (BATCH, 3), "nsp_": (BATCH, 7)}


# Masked tokens


@pytest.mark.parametrize("multiple", [1, 7, 32, 10**6])
def test_mlm_loss_ignores_positions_without_label(multiple, logits, labels):
    """Extra positions, added for rounding, change neither scores nor gradients."""
    chosen, batch = of_tokens(logits, labels, multiple)
    scores = columns(score_tokens(chosen, batch, 0.1))
    expected_chosen, expected_batch = of_tokens(logits, labels, 1)
    expected = columns(score_tokens(expected_chosen, expected_batch, 0.1))
    assert len(expected_batch["masked_positions"]) == (labels != -100).sum()
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradient(scores.sum(), logits), gradient(expected.sum(), logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_mlm_scores_equal_torch_sum(label_smoothing, logits, labels):
    loss = score_tokens(*of_tokens(logits, labels), label_smoothing)["loss"].sum()
    total = CrossEntropyLoss(label_smoothing=label_smoothing, reduction="sum")
    expected = total(logits.view(-1, VOCABULARY), labels.view(-1))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits))


def test_mlm_scores_without_masked_tokens_are_zero(logits):
    scores = columns(score_tokens(*of_tokens(logits, torch.full((BATCH, LENGTH), -100))))
    assert scores.tolist() == [[0, 0, 0]] * BATCH
    assert gradient(scores.sum(), logits).tolist() == torch.zeros_like(logits).tolist()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_mlm_loss_of_half_precision_is_computed_in_float32(label_smoothing, logits, labels, pair_logits, pair_labels):
    for score, (values, batch) in (
        (score_tokens, of_tokens(logits.detach().bfloat16(), labels)),
        (score_pairs, of_pairs(pair_logits.detach().bfloat16(), pair_labels)),
    ):
        scores = score(values, batch, label_smoothing)
        assert {each.dtype for each in scores.values()} == {torch.float32}
        assert columns(scores).tolist() == columns(score(values.float(), batch, label_smoothing)).tolist()


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [4, 4, 4], [11, 1], [1, 2, 9]])
def test_evaluation_does_not_depend_on_the_batches(sizes, logits, labels):
    """transformers#37766 and #15466: a metric is a sum over a count, from three sums per example."""
    pieces = zip(logits.detach().split(sizes), labels.split(sizes), strict=True)
    results = [columns(score_tokens(*of_tokens(*pair))) for pair in pieces]
    assert [tuple(scores.shape) for scores in results] == [(n, 3) for n in sizes]
    scores = by_name(("loss", "count", "hits"), torch.cat(results).double())
    assert scores["count"].tolist() == (labels != -100).sum(1).tolist()
    metrics = summarise_tokens({name: values.numpy() for name, values in scores.items()})

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


def test_mlm_scores_of_an_example_do_not_depend_on_its_batch():
    """Logits [2, 0] and [0, 2] where 0 is to be predicted: one hit, losses log(1 + e^-2) and log(1 + e^2)."""
    logits = torch.tensor([[[1.0, 0.0]] * 3, [[9.0, 0.0], [2.0, 0.0], [0.0, 2.0]], [[0.0, 3.0]] * 3])
    scores = columns(score_tokens(*of_tokens(logits, torch.tensor([[-100] * 3, [-100, 0, 0], [1, -100, -100]]))))
    two = math.log1p(math.exp(-2)) + math.log1p(math.exp(2))
    assert scores.flatten().tolist() == pytest.approx([0, 0, 0, two, 2, 1, math.log1p(math.exp(-3)), 1, 1])


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (math.log(50), 50.0), (1000.0, sys.float_info.max)])
def test_perplexity_is_exp_of_loss(loss, expected):
    assert perplexity(loss) == pytest.approx(expected)


def test_perplexity_of_nan_is_nan():
    assert math.isnan(perplexity(math.nan))


def test_non_finite_metrics_become_null_in_json():
    value = {"norm": math.inf, "losses": [1.5, math.nan, -math.inf], "none": None, "step": 3, "text": "inf"}
    assert finite(value) == {"norm": None, "losses": [1.5, None, None], "none": None, "step": 3, "text": "inf"}
    json.dumps(finite(value), allow_nan=False)


# Sentence pairs


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_pair_loss_equals_torch(label_smoothing, pair_logits, pair_labels):
    """Scores match pair by pair, with gradients; they are 0 for an unknown label."""
    losses = score_pairs(*of_pairs(pair_logits, pair_labels), label_smoothing)["loss"]
    expected = CrossEntropyLoss(label_smoothing=label_smoothing, reduction="none")(pair_logits, pair_labels)
    torch.testing.assert_close(losses, expected)
    assert losses[[3, 7]].tolist() == [0, 0]
    torch.testing.assert_close(gradient(losses.sum(), pair_logits), gradient(expected.sum(), pair_logits))


def test_label_smoothing_changes_pair_loss_only(pair_logits, pair_labels):
    """With 0.2, the other label has a tenth: logits [2, 0] and label 0 give log(1 + e^-2) + 0.1 * 2."""
    plain, smoothed = (score_pairs(*of_pairs(pair_logits, pair_labels), smoothing) for smoothing in (0.0, 0.2))
    assert (plain["loss"] != smoothed["loss"]).tolist() == (pair_labels != -100).tolist()
    assert columns(plain)[:, 1:].tolist() == columns(smoothed)[:, 1:].tolist()
    loss = score_pairs(*of_pairs(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), 0.2)["loss"].item()
    assert loss == pytest.approx(math.log1p(math.exp(-2)) + 0.2)


def test_pair_scores_do_not_depend_on_the_batch():
    """Columns: loss, count, hit, both random, predicted random, random, probability of random."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    scores = score_pairs(*of_pairs(logits, torch.tensor([0, 1, 1, 0, -100])))
    assert tuple(scores) == PAIR_SCORES
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    low, high = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))
    assert columns(scores).tolist() == [
        pytest.approx([right, 1, 1, 0, 0, 0, low]),
        pytest.approx([right, 1, 1, 1, 1, 1, high]),
        pytest.approx([wrong, 1, 0, 0, 0, 1, low]),
        pytest.approx([wrong, 1, 0, 0, 1, 0, high]),
        pytest.approx([0, 0, 0, 0, 0, 0, high]),
    ]


def test_pairs_of_unknown_label_do_not_count(pair_logits):
    """The loss does not become NaN, and the model's prediction is kept."""
    scores = score_pairs(*of_pairs(pair_logits, torch.full((BATCH,), -100)))
    assert columns(scores)[:, :-1].tolist() == [[0] * 6] * BATCH
    assert scores["probability"].tolist() == pair_logits.softmax(-1)[:, 1].tolist()
    assert gradient(scores["loss"].sum(), pair_logits).tolist() == [[0, 0]] * BATCH


def count_pairs(logits, labels) -> dict[str, float]:
    """Return the metrics, counted one by one in float64."""
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
    results = [columns(score_pairs(*of_pairs(*pair))) for pair in pieces]
    assert [tuple(scores.shape) for scores in results] == [(n, 7) for n in sizes]
    metrics = summarise_pairs(pair_scores(torch.cat(results)))
    expected = count_pairs(pair_logits.tolist(), pair_labels.tolist())
    assert 0 < expected["accuracy"] < 1
    assert 0 < expected["f1"] < 1
    assert metrics == pytest.approx(expected, rel=1e-6)
    assert (metrics["pairs"], metrics["is_next"]) == (10, 0.6)


# Far enough apart to differ in float32.
LOGITS = st.lists(st.integers(-80, 80).map(lambda value: value / 8), min_size=2, max_size=2, unique=True)


@given(st.lists(st.tuples(LOGITS, st.sampled_from([0, 1, -100])), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_pair_metrics_equal_counts(pairs):
    logits, labels = zip(*pairs, strict=True)
    scores = pair_scores(columns(score_pairs(*of_pairs(torch.tensor(logits), torch.tensor(labels)))))
    assert scores["count"].tolist() == [label != -100 for label in labels]
    assert scores["probability"].tolist() == pytest.approx([1 / (1 + math.exp(a - b)) for a, b in logits], abs=1e-6)
    if set(labels) != {-100}:
        assert summarise_pairs(scores) == pytest.approx(count_pairs(logits, labels), rel=1e-5, abs=1e-6)


def test_pair_f1_without_random_pairs_is_zero():
    """F1 is 0, without a division by zero, if no pair is random or predicted random."""
    metrics = summarise_pairs(pair_scores(torch.tensor([[0.75, 3.0, 3.0, 0.0, 0.0, 0.0, 0.2]])))
    assert metrics == {"loss": 0.25, "accuracy": 1.0, "f1": 0.0, "is_next": 1.0, "pairs": 3}


def test_pair_f1_is_that_of_random_pairs():
    """4 of 10 pairs are random, 5 are predicted random, 3 correctly: precision 3/5, recall 3/4, F1 2/3."""
    metrics = summarise_pairs(pair_scores(torch.tensor([[5.0, 10.0, 7.0, 3.0, 5.0, 4.0, 4.4]])))
    assert metrics == pytest.approx({"loss": 0.5, "accuracy": 0.7, "f1": 2 / 3, "is_next": 0.6, "pairs": 10})


# Logits in a model's output


@pytest.mark.parametrize(
    ("names", "of_tokens", "of_pairs"),
    [
        (["logits"], "logits", "logits"),
        (["prediction_logits", "seq_relationship_logits"], "prediction_logits", "seq_relationship_logits"),
        (["prediction_logits", "sop_logits"], "prediction_logits", "sop_logits"),
    ],
)
def test_logits_are_found_by_the_models_output_names(names, of_tokens, of_pairs):
    outputs = {name: name for name in [*names, "hidden_states"]}
    assert MASKED_TOKENS.logits_of(outputs) == of_tokens
    assert SENTENCE_PAIRS.logits_of(outputs) == of_pairs


# Characters and documents


def test_bits_per_character_are_the_loss_over_the_characters():
    scores = {"loss": [3.0, 5.0], "count": [2.0, 1.0], "hits": [1.0, 0.0], "characters": [4.0, 6.0]}
    metrics = summarise_tokens({name: np.array(values) for name, values in scores.items()})
    assert metrics["bits_per_character"] == pytest.approx(8 / math.log(2) / 10)
    assert metrics["loss"] == pytest.approx(8 / 3)


@pytest.mark.parametrize("characters", [{}, {"characters": np.zeros(2)}], ids=["unknown", "white space alone"])
def test_without_characters_there_are_no_bits(characters):
    scores = {"loss": np.ones(2), "count": np.ones(2), "hits": np.ones(2)} | characters
    assert summarise_tokens(scores).keys() == {"loss", "perplexity", "accuracy", "masked_tokens"}


def test_losses_of_documents_are_those_of_their_tokens(logits, labels):
    """Of the first documents, four tokens are in each example, of the second the others, of a third none."""
    chosen, batch = of_tokens(logits, labels)
    ends = torch.tensor([[4, LENGTH, -100]]).repeat(BATCH, 1)
    characters = torch.arange(BATCH)
    scores = score_tokens(chosen, batch | {"documents": ends, "document_ends": ends, "characters": characters})
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    by_hand = [losses[:, :4].sum(1), losses[:, 4:].sum(1), torch.zeros(BATCH)]
    torch.testing.assert_close(scores["document_loss"], torch.stack(by_hand, dim=1))
    known = labels != -100
    assert scores["document_count"].tolist() == [[int(row[:4].sum()), int(row[4:].sum()), 0] for row in known]
    assert scores["characters"] is characters
    assert torch.equal(scores["loss"], score_tokens(chosen, batch)["loss"])
