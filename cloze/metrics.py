"""The masked-LM loss, and perplexity and accuracy over all masked tokens of a set, by counting."""

import math

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from cloze.masking import IGNORED


def masked_lm_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Sum of the cross-entropies over masked tokens, divided by ``num_items``: those of the whole optimizer step.

    Models of transformers return the mean of each micro-batch instead, which the Trainer takes for this and does not
    divide by their number (huggingface/transformers#47688). Nothing masked gives 0, not NaN.

    Args:
        logits: [batch, length, vocabulary].
        labels: [batch, length], -100 where there is nothing to predict.
    """
    masked = labels != IGNORED
    total = functional.cross_entropy(
        logits[masked].float(), labels[masked], reduction="sum", label_smoothing=label_smoothing
    )
    return total / num_items.clamp(min=1)


def masked_lm_sums(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What evaluation keeps of a batch: per example the sum of losses and the hits [batch, 2], and the count [batch].

    Logits are dropped at once: kept for a whole set they run out of memory (huggingface/transformers#15466).
    """
    masked = labels != IGNORED
    chosen, targets = logits[masked].float(), labels[masked]
    losses = functional.cross_entropy(chosen, targets, reduction="none")
    hits = (chosen.argmax(-1) == targets).float()
    # Laid out by position and then summed: adding up by index would not repeat itself on a GPU, to the last digit.
    scores = torch.zeros(*labels.shape, 2, device=logits.device)
    scores[masked] = torch.stack([losses, hits], dim=1)
    return scores.sum(1), masked.sum(1)


def summarise(prediction: EvalPrediction) -> dict[str, float]:
    """Loss and accuracy over all masked tokens: a sum over a count, not a mean of batch means."""
    loss, hits = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
    count = np.asarray(prediction.label_ids).sum()
    return {"loss": float(loss / count), "accuracy": float(hits / count), "masked_tokens": int(count)}


def perplexity(loss: float) -> float:
    return math.inf if loss > 700 else math.exp(loss)
