"""Score next tokens: cross-entropy, perplexity, accuracy, bits per character and per byte."""

import math

import numpy as np
import torch

from cloze.objectives.metrics import Objective, Scores, add_up, score_tokens, summarise_tokens


def score_next_tokens(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's summed cross-entropy over its next tokens, their count, and the hits, [batch] each.

    Args:
        logits: [batch, length, vocabulary].
        batch: ``next_tokens`` [batch, length], the token after each one, -100 where nothing is predicted. If it has
            ``characters``, ``bytes``, or ``documents`` with their ``document_ends``, the scores have these, too, as
            ``score_tokens`` has them.
        label_smoothing: share of the target probability spread over the vocabulary, 0 to 1.
    """
    targets = batch["next_tokens"]
    everywhere = torch.arange(targets.numel(), device=targets.device)
    tokens = batch | {"labels": targets, "masked_positions": everywhere}
    scores = score_tokens(logits.flatten(0, 1)[None], tokens, label_smoothing)
    return scores | ({"bytes": batch["bytes"]} if "bytes" in batch else {})


def summarise_next_tokens(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of a set's predicted tokens, their number, and bits per byte if the tokens have bytes."""
    metrics, size = summarise_tokens(scores), add_up(scores).get("bytes", 0)
    tokens = metrics.pop("masked_tokens")
    bits = {"bits_per_byte": metrics["loss"] * tokens / math.log(2) / size} if size else {}
    return metrics | bits | {"tokens": tokens}


NEXT_TOKENS = Objective(
    "next_tokens",
    ("logits",),
    score_next_tokens,
    summarise_next_tokens,
    (
        ("perplexity", "perplexity", ",.2f"),
        ("bits per character", "bits_per_character", ".3f"),
        ("bits per byte", "bits_per_byte", ".3f"),
        ("accuracy of next tokens", "accuracy", ".1%"),
    ),
)
