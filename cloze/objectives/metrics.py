"""Score masked tokens and sentence pairs: cross-entropy, accuracy and F1 by counting.

Scores are kept example by example, as sums and counts on the device, under their names: those of every objective have
``loss``, ``count`` and ``hits``. Logits are dropped at once: kept for a whole set they run out of memory
(huggingface/transformers#15466).
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

Scores = dict[str, torch.Tensor]

# Of each row of logits; 0 where there is nothing to predict.
cross_entropy = partial(functional.cross_entropy, reduction="none", ignore_index=IGNORED)


def by_name(names: Sequence[str], columns: torch.Tensor) -> Scores:
    """Return the columns [batch, names], [batch] each, under their names."""
    return dict(zip(names, columns.unbind(1), strict=True))


def add_up(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the sum of each score over the examples, added up one by one in their order."""
    return dict(zip(scores, np.stack(list(scores.values()), axis=1).sum(0).tolist(), strict=True))


def score_tokens(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's sum of the cross-entropies over its masked tokens, their count, and the hits: [batch] each.

    Nothing here asks what the batch holds, for which a GPU would have to be waited for.

    Args:
        logits: [1, positions, vocabulary].
        batch: ``labels`` [batch, length], -100 where there is nothing to predict, and ``masked_positions`` [positions],
            the flat positions of the others; where it points to one without a label, the logits do not count.
    """
    labels, positions = batch["labels"], batch["masked_positions"]
    chosen, targets = logits[0].float(), labels.flatten().index_select(0, positions)
    losses = cross_entropy(chosen, targets, label_smoothing=label_smoothing)
    hits = chosen.argmax(-1) == targets
    # Laid out by position and then summed: adding up by example would not repeat itself on a GPU, to the last digit.
    # Here nothing but zeros is added twice.
    columns = torch.stack([losses, targets != IGNORED, hits], dim=1)
    laid_out = torch.zeros(labels.numel(), 3, device=logits.device).index_add(0, positions, columns)
    return by_name(("loss", "count", "hits"), laid_out.view(*labels.shape, 3).sum(1))


def summarise_tokens(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return loss, perplexity and accuracy of the masked tokens of a set, and their number."""
    sums = add_up(scores)
    loss = sums["loss"] / sums["count"]
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "accuracy": sums["hits"] / sums["count"],
        "masked_tokens": int(sums["count"]),
    }


def perplexity(loss: float) -> float:
    """Return exp(loss), or the largest float where that is larger: JSON has no infinity."""
    return sys.float_info.max if loss > 700 else math.exp(loss)


def finite(value: Any) -> Any:
    """Return the same data with None in place of NaN and infinity, which strict parsers of JSON refuse."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_finite(scores: np.ndarray) -> None:
    """Raise UserError for NaN or infinity in what a model gives, of which no metric or prediction would be right."""
    if not np.isfinite(scores).all():
        raise UserError(
            "the model gives NaN or infinity for some texts: its weights hold NaN, or overflow in float16: take an "
            "earlier checkpoint, train with a lower --learning_rate, or use --bf16 instead of --fp16"
        )


def score_pairs(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each pair's cross-entropy, count, hits, and what F1 and predictions take, [batch] each.

    These are ``is_random``, the label; ``found_random``, whether it is taken for one; ``both_random``, whether both;
    and ``probability`` that it is random.

    Args:
        logits: [batch, 2].
        batch: ``next_sentence_label`` [batch], 0 where B follows A, 1 where it is random, -100 where it is not known:
            such a pair counts 0.
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

    F1 is computed for random pairs, label 1; ``is_next`` is the fraction of other pairs, a constant guess's accuracy.
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
    """Define one thing to predict.

    Attributes:
        labels: name of the labels in a batch, -100 where there is nothing to predict.
        logits: names that a model's output may have for them.
        score: of logits and batch, the scores of each example, [batch] each: loss, count, hits, and its own.
        summarise: of those of a set, float64 [examples] each, the metrics: sums over counts, not means of batches'.
        figures: what is reported of an evaluation: title, metric, format.
    """

    labels: str
    logits: tuple[str, ...]
    score: Callable[..., Scores]
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    figures: tuple[tuple[str, str, str], ...]

    def logits_of(self, outputs: ModelOutput) -> torch.Tensor:
        """Return the logits in a model's output."""
        return next(outputs[name] for name in self.logits if name in outputs)


def figures_of(objectives: dict[str, Objective]) -> dict[str, tuple[str, str]]:
    """Return the title and format of each reported metric of an evaluation, by the metric's name."""
    return {
        f"{prefix}{name}": (title, form)
        for prefix, objective in objectives.items()
        for title, name, form in objective.figures
    }


def format_metric(value: float, form: str) -> str:
    """Format a number by ``form``, but in scientific notation from 10^12 on."""
    return f"{value:.2e}" if abs(value) >= 1e12 else f"{value:{form}}"


MASKED_TOKENS = Objective(
    "labels",
    ("prediction_logits", "logits"),
    score_tokens,
    summarise_tokens,
    (("masked perplexity", "perplexity", ",.2f"), ("masked accuracy", "accuracy", ".1%")),
)
SENTENCE_PAIRS = Objective(
    "next_sentence_label",
    ("seq_relationship_logits", "sop_logits", "logits"),
    score_pairs,
    summarise_pairs,
    (("pair loss", "loss", ".3f"), ("pair accuracy", "accuracy", ".1%"), ("pair F1", "f1", ".3f")),
)
