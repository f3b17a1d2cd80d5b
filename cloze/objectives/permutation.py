"""Score the tokens that a permutation language model predicts."""

import numpy as np
import torch

from cloze.objectives.metrics import Objective, Scores, score_tokens, summarise_tokens


def score_targets(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0) -> Scores:
    """Return each example's summed cross-entropy over predicted tokens, their count, and the hits, [batch] each.

    Args:
        logits: [batch, targets, vocabulary].
        batch: ``labels`` [batch, length], -100 where nothing is predicted, and ``target_mapping`` [batch, targets,
            length], the one-hot positions of the logits; logits at a position without a label are ignored. For
            evaluations with what ``score_tokens`` takes.
        label_smoothing: share of the target probability spread over the vocabulary, 0 to 1.
    """
    mapping = batch["target_mapping"]
    examples, _, length = mapping.shape
    positions = mapping.argmax(-1) + length * torch.arange(examples, device=mapping.device)[:, None]
    return score_tokens(logits.flatten(0, 1)[None], batch | {"masked_positions": positions.flatten()}, label_smoothing)


def summarise_targets(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of a set as ``summarise_tokens`` does, with the number of ``predicted_tokens``."""
    metrics = summarise_tokens(scores)
    return metrics | {"predicted_tokens": metrics.pop("masked_tokens")}


PREDICTED_TOKENS = Objective(
    "labels",
    ("logits",),
    score_targets,
    summarise_targets,
    (
        ("permutation perplexity", "perplexity", ",.2f"),
        ("bits per character", "bits_per_character", ".3f"),
        ("accuracy", "accuracy", ".1%"),
    ),
)
