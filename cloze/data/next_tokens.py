"""Pad examples to batches whose targets are the next tokens."""

import numpy as np
import torch

from cloze.data.collators import IGNORED, Padding, as_tensors, pad


def collate_next_tokens(
    examples: list[dict], pad_id: int, padding: Padding, sizes: dict[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """Pad examples to a batch, with the token after each one as its target.

    ``[{"input_ids": [7, 8, 9]}, {"input_ids": [5, 6]}]`` becomes ``{"input_ids", "attention_mask", "next_tokens"}``,
    int64 [batch, length]: ``next_tokens [[8, 9, -100], [6, -100, -100]]``. The first token of an example is context
    only. Padding may have the id of a token.

    Args:
        examples: those without an epoch belong to evaluations.
        pad_id: of the padding.
        padding: of the batch.
        sizes: by name, the size of each token, int64 [vocabulary], such as its characters. Batches of evaluations have
            the summed sizes of the predicted tokens, int64 [batch].
    """
    batch = pad(examples, pad_id, padding)
    targets = np.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORED)
    targets = np.pad(targets[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
    batch["next_tokens"] = targets
    if "epoch" not in examples[0]:
        predicted = targets != IGNORED
        for name, each in sizes.items():
            batch[name] = (each[np.where(predicted, targets, 0)] * predicted).sum(1)
    if "document_ends" in batch:
        # A position is in the document of its input, so that the token after a document counts to it. The last
        # document of an example has all that is left.
        ends = batch["document_ends"]
        batch["document_ends"] = np.where(ends == ends.max(1, keepdims=True), targets.shape[1], ends)
    return as_tensors(batch, padding)
