"""Compare classifier metrics with scikit-learn and torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from cloze.objectives.classification import AccuracyAndMacroF1, score_classes, summarise_classes


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 40), st.randoms(use_true_random=False))
def test_classification_metrics_equal_scikit_learn(classes, texts, random):
    predictions, references = ([random.randrange(classes) for _ in range(texts)] for _ in range(2))
    metrics = AccuracyAndMacroF1(keep_in_memory=True).compute(predictions=predictions, references=references)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(references, predictions), abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"), abs=1e-12)


def test_classification_scores_equal_torch():
    """The third label is unknown and has a count of 0."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [1.0, 1.0, 3.0], [0.0, 0.0, 4.0]])
    labels = torch.tensor([0, 2, -100, 2])
    scores = score_classes(logits, {"label": labels})
    assert scores["count"].tolist() == [1, 1, 0, 1]
    assert scores["hits"].tolist() == [1, 0, 0, 1]
    assert scores["probabilities"].sum(1).tolist() == pytest.approx([1] * 4)
    metrics = summarise_classes({name: values.double().numpy() for name, values in scores.items()})
    loss = torch.nn.functional.cross_entropy(logits, labels)
    # Class 0: 1 of 1 correct; class 1: 1 wrong prediction; class 2: 1 of 2 found.
    assert metrics == pytest.approx({"loss": loss.item(), "accuracy": 2 / 3, "macro_f1": 5 / 9, "texts": 3}, abs=1e-6)


def test_classification_label_smoothing_equals_torch():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(score_classes(logits, {"label": labels}, 0.2)["loss"], expected)
