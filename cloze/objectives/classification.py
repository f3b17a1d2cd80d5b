"""Classification of texts: what is learnt, and how well it is known."""

import datasets
import evaluate
import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from cloze.data.collators import IGNORED
from cloze.objectives.metrics import Objective
from cloze.objectives.tasks import MASKED_LM, Task


class AccuracyAndMacroF1(evaluate.Metric):
    """The share of right predictions, and the mean of the classes' F1, of those that occur or are predicted.

    Made here and not by ``evaluate.load``, which goes to the network even for a metric at hand (huggingface/evaluate
    #567).
    """

    def _info(self):
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1 of a classifier.",
            citation="",
            inputs_description="predictions, references: the number of a class for each text.",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        hits = predictions == references
        classes = max(predictions.max(), references.max()) + 1
        found, there = np.bincount(predictions, minlength=classes), np.bincount(references, minlength=classes)
        occurs = found + there > 0
        f1 = 2 * np.bincount(references[hits], minlength=classes)[occurs] / (found + there)[occurs]
        return {"accuracy": float(hits.mean()), "macro_f1": float(f1.mean())}


def score_classes(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> torch.Tensor:
    """Of each text, cross-entropy, count, hits, label, and the probability of each class: [batch, 4 + classes].

    Args:
        logits: [batch, classes].
        batch: ``label`` [batch], the number of the class, or -100 where it is not known: such a text counts 0.
    """
    labels, logits = batch["label"], logits.float()
    losses = functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=label_smoothing, ignore_index=IGNORED
    )
    facts = torch.stack([losses, labels != IGNORED, logits.argmax(-1) == labels, labels], dim=1)
    return torch.cat([facts, logits.softmax(-1)], dim=1)


def summarise_classes(scores: np.ndarray) -> dict[str, float]:
    labels, predictions = classes_of(scores)
    known = labels != IGNORED
    metric = AccuracyAndMacroF1(keep_in_memory=True)
    figures = metric.compute(predictions=predictions[known], references=labels[known])
    return {"loss": float(scores[:, 0].sum() / known.sum()), **figures, "texts": int(known.sum())}


def classes_of(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label and the predicted class of each text, int64 [examples], of their scores."""
    return scores[:, 3].astype(np.int64), scores[:, 4:].argmax(1)


CLASSES = Objective("label", ("logits",), score_classes, summarise_classes)

CLASSIFICATION = Task(
    title="text classifier",
    head="classification head",
    auto_model=AutoModelForSequenceClassification,
    # Decoders classify by their last token, for which texts would have to be padded on the other side.
    model_types=tuple(
        name for name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES if name in MASKED_LM.model_types
    ),
    instead="use an encoder such as bert, distilbert, roberta, electra, albert, modernbert or deberta-v2",
    objectives={"": CLASSES},
)
