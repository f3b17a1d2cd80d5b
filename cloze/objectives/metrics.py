"""Score masked tokens and sentence pairs: cross-entropy, accuracy and F1.

Scores are sums and counts per example, by name, on the device; every objective has ``loss``, ``count`` and ``hits``.
Logits are not kept: for a whole evaluation set they run out of memory (huggingface/transformers#15466).
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils import ModelOutput

from cloze.data.collators import IGNORED
from cloze.errors import UserError
from cloze.objectives.documents import split_by_document

Scores = dict[str, torch.Tensor]

# Ends of the names of metrics that are, within a run, the loss times a constant.
BITS = ("bits_per_character", "bits_per_byte")

# Returns the cross-entropy of each row of logits; 0 for a row without a label.
cross_entropy = partial(functional.cross_entropy, reduction="none", ignore_index=IGNORED)


def by_name(names: Sequence[str], columns: torch.Tensor) -> Scores:
    """Return a dictionary of the columns [batch, names], [batch] each."""
    return dict(zip(names, columns.unbind(1), strict=True))


def add_up(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the sum of each score [examples] over the examples, added one by one in their order."""
    columns = {name: values for name, values in scores.items() if values.ndim == 1}
    return dict(zip(columns, np.stack(list(columns.values()), axis=1).sum(0).tolist(), strict=True))


def score_tokens(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's summed cross-entropy over masked tokens, their count, and the hits, [batch] each.

    No operation depends on the values in the batch, so the CPU never waits for the GPU.

    Args:
        logits: [1, positions, vocabulary].
        batch: ``labels`` [batch, length], -100 where nothing is predicted, and ``masked_positions`` [positions], the
            flat positions of the labels; logits at a position without a label are ignored. If it has ``characters``
            and ``documents`` with their ``document_ends``, the scores have the number of characters, [batch], and
            ``document_loss`` and ``document_count``, [batch, parts].
        label_smoothing: share of the target probability spread over the vocabulary, 0 to 1.
    """
    labels, positions = batch["labels"], batch["masked_positions"]
    chosen, targets = logits[0].float(), labels.flatten().index_select(0, positions)
    losses = cross_entropy(chosen, targets, label_smoothing=label_smoothing)
    hits = chosen.argmax(-1) == targets
    # Scattered by position and then summed: adding by example is not reproducible to the bit on a GPU. Here, only zeros
    # are added to the same position.
    columns = torch.stack([losses, targets != IGNORED, hits], dim=1)
    scattered = torch.zeros(labels.numel(), 3, device=logits.device).index_add(0, positions, columns)
    scattered = scattered.view(*labels.shape, 3)
    scores = by_name(("loss", "count", "hits"), scattered.sum(1))
    if "characters" in batch:
        scores["characters"] = batch["characters"]
    if "documents" in batch:
        parts = split_by_document(scattered[..., :2], batch["document_ends"])
        scores |= {"document_loss": parts[..., 0], "document_count": parts[..., 1]}
    return scores


def summarise_tokens(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return loss, perplexity and accuracy of a set's masked tokens, and their number.

    If the tokens stand for characters other than white space, the bits per character are added.
    """
    sums = add_up(scores)
    loss, characters = sums["loss"] / sums["count"], sums.get("characters", 0)
    bits = {"bits_per_character": sums["loss"] / math.log(2) / characters} if characters else {}
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        **bits,
        "accuracy": sums["hits"] / sums["count"],
        "masked_tokens": int(sums["count"]),
    }


def perplexity(loss: float) -> float:
    """Return exp(loss), at most the largest float, since JSON has no infinity."""
    return sys.float_info.max if loss > 700 else math.exp(loss)


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None in nested data, because strict JSON parsers reject them."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_finite(scores: np.ndarray) -> None:
    """Raise UserError for NaN or infinity in a model's output."""
    if not np.isfinite(scores).all():
        raise UserError(
            "the model outputs NaN or infinity for some texts, because its weights contain NaN or overflow in float16: "
            "use an earlier checkpoint, a lower --learning_rate, or --bf16 instead of --fp16"
        )


def score_pairs(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each pair's cross-entropy, count, hits, and the inputs of F1 and predictions, [batch] each.

    The inputs are ``is_random`` (the label), ``found_random`` (the prediction), ``both_random`` (both are random), and
    ``probability`` (of a random B).

    Args:
        logits: [batch, 2].
        batch: ``next_sentence_label`` [batch], 0 if B follows A, 1 if B is random, -100 if unknown: such a pair has a
            count of 0.
        label_smoothing: share of the target probability spread over both labels, 0 to 1.
    """
    labels = batch["next_sentence_label"]
    logits, known = logits.float(), labels != IGNORED
    losses = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    found, is_random = logits.argmax(-1) * known, (labels == 1).long()
    hits = known & (found == labels)
    probability = logits.softmax(-1)[:, 1]
    columns = torch.stack([losses, known, hits, found * is_random, found, is_random, probability], dim=1)
    return by_name(("loss", "count", "hits", "both_random", "found_random", "is_random", "probability"), columns)


def summarise_pairs(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of a set of pairs.

    F1 is for random pairs, label 1; ``is_next`` is the fraction of other pairs, the accuracy of a constant guess.
    """
    sums = add_up(scores)
    return {
        "loss": sums["loss"] / sums["count"],
        "accuracy": sums["hits"] / sums["count"],
        "f1": 2 * sums["both_random"] / max(sums["found_random"] + sums["is_random"], 1),
        "is_next": 1 - sums["is_random"] / sums["count"],
        "pairs": int(sums["count"]),
    }


@dataclass(frozen=True)
class Objective:
    """Define a training objective and its metrics.

    Attributes:
        labels: key of the labels in a batch, -100 where nothing is predicted.
        logits: possible names of the logits in a model's output.
        score: maps logits and batch to the scores of each example, [batch] each: loss, count, hits, and its own.
        summarise: maps a set's scores, float64 [examples] each, to metrics: sums over counts, not means over batches.
        figures: reported metrics of an evaluation: title, metric, format.
    """

    labels: str
    logits: tuple[str, ...]
    score: Callable[..., Scores]
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    figures: tuple[tuple[str, str, str], ...]

    def logits_of(self, outputs: ModelOutput) -> torch.Tensor:
        """Return the logits in a model's output."""
        return next(outputs[name] for name in self.logits if name in outputs)


def prefix_of(held_out_set: str) -> str:
    """Return what the metrics of a held-out set begin with, after ``eval_``: nothing if it has no name."""
    return f"{held_out_set}_" if held_out_set else ""


def figures_of(objectives: dict[str, Objective], sets: Sequence[str] = ("",)) -> dict[str, tuple[str, str]]:
    """Return the title and format of each reported metric of an evaluation, by the metric's name.

    Args:
        objectives: by the prefix of their metrics.
        sets: names of the held-out sets, "" for one without a name.
    """
    return {
        f"{prefix_of(each)}{prefix}{name}": (f"{title}, {each}" if each else title, form)
        for prefix, objective in objectives.items()
        for title, name, form in objective.figures
        for each in sets
    }


def format_metric(value: float, form: str) -> str:
    """Format a number by ``form``, but in scientific notation from 10^12 on."""
    return f"{value:.2e}" if abs(value) >= 1e12 else f"{value:{form}}"


MASKED_TOKENS = Objective(
    "labels",
    ("prediction_logits", "logits"),
    score_tokens,
    summarise_tokens,
    (
        ("masked perplexity", "perplexity", ",.2f"),
        ("bits per character", "bits_per_character", ".3f"),
        ("masked accuracy", "accuracy", ".1%"),
    ),
)
SENTENCE_PAIRS = Objective(
    "next_sentence_label",
    ("seq_relationship_logits", "sop_logits", "logits"),
    score_pairs,
    summarise_pairs,
    (("pair loss", "loss", ".3f"), ("pair accuracy", "accuracy", ".1%"), ("pair F1", "f1", ".3f")),
)
