"""Score the classification of texts: cross-entropy, accuracy and macro-F1."""

import datasets
import evaluate
import numpy as np
import torch

from cloze.data.collators import IGNORED
from cloze.objectives.metrics import Objective, Scores, by_name, cross_entropy


class AccuracyAndMacroF1(evaluate.Metric):
    """Compute accuracy, and the mean F1 over the classes that occur or are predicted.

    Defined here because ``evaluate.load`` needs the network even for a local metric (huggingface/evaluate#567).
    """

    def _info(self):
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1 of a classifier.",
            citation="",
            inputs_description="predictions, references: the class number of each text.",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        hits = predictions == references
        classes = max(predictions.max(), references.max()) + 1
        predicted, actual = np.bincount(predictions, minlength=classes), np.bincount(references, minlength=classes)
        occurs = predicted + actual > 0
        f1 = 2 * np.bincount(references[hits], minlength=classes)[occurs] / (predicted + actual)[occurs]
        return {"accuracy": float(hits.mean()), "macro_f1": float(f1.mean())}


def score_classes(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each text's cross-entropy, count, hits and label, [batch] each, and probabilities, [batch, classes].

    Args:
        logits: [batch, classes].
        batch: ``label`` [batch], the class number, or -100 if unknown: such a text has a count of 0.
        label_smoothing: share of the target probability spread over all classes, 0 to 1.
    """
    labels, logits = batch["label"], logits.float()
    losses = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    columns = torch.stack([losses, labels != IGNORED, logits.argmax(-1) == labels, labels], dim=1)
    return by_name(("loss", "count", "hits", "label"), columns) | {"probabilities": logits.softmax(-1)}


def summarise_classes(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of the texts with a known label, and their number."""
    labels, predictions = classes_of(scores)
    known = labels != IGNORED
    metric = AccuracyAndMacroF1(keep_in_memory=True)
    figures = metric.compute(predictions=predictions[known], references=labels[known])
    return {"loss": float(scores["loss"].sum() / known.sum()), **figures, "texts": int(known.sum())}


def classes_of(scores: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the label and the predicted class of each text, int64 [examples] each."""
    return scores["label"].astype(np.int64), scores["probabilities"].argmax(1)


CLASSES = Objective(
    "label",
    ("logits",),
    score_classes,
    summarise_classes,
    (("loss of classes", "loss", ".3f"), ("accuracy", "accuracy", ".1%"), ("macro-F1", "macro_f1", ".3f")),
)
