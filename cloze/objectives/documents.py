"""Estimate how certain the change of a loss is, from the losses of documents before and after training."""

from typing import NamedTuple

import numpy as np
import torch

# Bootstrap samples, and the most random numbers drawn at a time.
DRAWS, CHUNK_NUMBERS = 10_000, 1_000_000
# The interval holds this share of the samples.
COVERAGE = 0.95
# Documents beyond this number share groups, which are resampled in their place, to bound time and memory.
MAX_GROUPS = 2_000


class DocumentSums(NamedTuple):
    """Hold the sums of an objective by document, or by group of documents if they are many.

    Attributes:
        losses: of the targets, [groups].
        counts: of the targets, positive, [groups].
    """

    losses: list[float]
    counts: list[float]


class Change(NamedTuple):
    """Hold the change of a mean loss, and its interval."""

    value: float
    low: float
    high: float


def split_by_document(values: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return the sums of each part of each example, [batch, parts, values].

    Args:
        values: of each token, [batch, length, values].
        ends: end of each part in its example, ascending, [batch, parts]; -100 after the last part.
    """
    begins = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    position = torch.arange(values.shape[1], device=values.device)
    # Added by multiplication: scattering is not reproducible to the bit on a GPU. By example, to save memory.
    return torch.stack(
        [
            (((position >= begin[:, None]) & (position < end[:, None]))[..., None] * own).sum(1)
            for begin, end, own in zip(begins, ends, values, strict=True)
        ]
    )


def sum_by_document(documents: np.ndarray, loss: np.ndarray, count: np.ndarray) -> DocumentSums:
    """Return the sums of the documents that have targets, in the order of their numbers.

    Args:
        documents: number of the document of each part of an example, -100 where there is none, [examples, parts].
        loss: of each part, [examples, parts].
        count: of the targets of each part, [examples, parts].
    """
    used = (documents >= 0) & (count > 0)
    _, document = np.unique(documents[used], return_inverse=True)
    # Neighbours, which are often alike, are in different groups.
    group = document % MAX_GROUPS
    return DocumentSums(np.bincount(group, loss[used]).tolist(), np.bincount(group, count[used]).tolist())


def change_of_loss(before: DocumentSums, after: DocumentSums, rng: np.random.Generator) -> Change | None:
    """Return the change of the mean loss from ``before`` to ``after``, with its 95 % interval.

    Documents are drawn with replacement, since the tokens of a document are not independent (Efron and Tibshirani,
    1993, section 8). Each draw is a ratio of sums. Deviations from the estimate are scaled by sqrt(n / (n - 1)) for n
    documents, because resampling underestimates them by this factor.

    Returns:
        The change, or None if there are fewer than two documents or the two sides do not have the same targets.
    """
    if before.counts != after.counts or len(after.counts) < 2:
        return None
    gains, count = np.subtract(after.losses, before.losses), np.array(after.counts)
    documents, value = len(count), gains.sum() / count.sum()
    drawn = []
    chunk = max(1, CHUNK_NUMBERS // documents)
    for begin in range(0, DRAWS, chunk):
        size = min(chunk, DRAWS - begin)
        chosen = rng.integers(documents, size=(size, documents))
        drawn.append(gains[chosen].sum(1) / count[chosen].sum(1))
    widened = value + np.sqrt(documents / (documents - 1)) * (np.concatenate(drawn) - value)
    low, high = np.quantile(widened, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Change(float(value), float(low), float(high))
