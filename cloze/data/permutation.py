"""Draw the tokens to predict and the order to predict them in: permutation language modelling (Yang et al., 2019)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cloze.config.permutation_arguments import MAX_SPAN_LENGTH, PLM_PROBABILITY
from cloze.data.collators import IGNORED, Padding, as_tensors, example_rng, pad, special_ids
from cloze.tokenization.characters import characters_of

# Segment of XLNet's <cls>, which differs from the segments of texts.
CLS_SEGMENT = 2


@dataclass
class PermutationCollator:
    """Pad examples to a batch, and draw for each one the tokens to predict and their order.

    ``[{"input_ids": [7, 8, 9, 4, 3], "example": 0, "epoch": 1}, ...]`` becomes

    - ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``labels``, int64 [batch, length]; ``input_ids
      [[7, 6, 6, 4, 3, 5]]``, ``labels [[-100, 8, 9, -100, -100, -100]]``, since tokens to predict are masked;
    - ``perm_mask``, bool [batch, length, length]: position i does not attend to position j;
    - ``target_mapping``, float32 [batch, targets, length]: the one-hot positions to compute logits for, those with a
      label first. Examples with fewer labels than others get further positions, without a label.

    The objective is that of DataCollatorForPermutationLanguageModeling: text that is not predicted is visible for all
    positions and sees no predicted token; a predicted token sees those before it in the order. Differences:

    - Draws depend on (seed, epoch, example) only, not on the batch, the process or the padding; the parent needs
      examples of equal and even length.
    - Examples without an epoch belong to evaluations. Their draws never change, and are those of XLNet's settings.
    - Batches of evaluations have ``"characters"``, int64 [batch]: the number of characters in the tokens to predict,
      without white space.

    Attributes:
        tokenizer: with a mask token.
        padding: of the batches.
        plm_probability: share of the tokens to predict in training.
        max_span_length: length of the longest span to predict in training.
        seed: of the draws in training.
        targets_multiple: the number of targets is a multiple of this, to limit the shapes.
        special: ids that are never predicted.
        characters: of each token, without white space, int64 [vocabulary].
    """

    tokenizer: PreTrainedTokenizerBase
    padding: Padding
    plm_probability: float = PLM_PROBABILITY
    max_span_length: int = MAX_SPAN_LENGTH
    seed: int = 0
    targets_multiple: int = 4
    special: np.ndarray = field(init=False, repr=False)
    characters: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.special = np.unique(special_ids(self.tokenizer))
        self.characters = characters_of(self.tokenizer)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch; examples with an epoch are drawn for training, others for evaluation."""
        batch = pad(examples, self.tokenizer.pad_token_id, self.padding)
        input_ids, trains = batch["input_ids"], "epoch" in examples[0]
        settings = (self.plm_probability, self.max_span_length) if trains else (PLM_PROBABILITY, MAX_SPAN_LENGTH)
        in_span, ranks = np.zeros(input_ids.shape, dtype=bool), np.zeros_like(input_ids)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            rng = example_rng(self.seed, example.get("epoch"), example["example"])
            in_span[row, :length] = draw_spans(length, *settings, rng)
            ranks[row, :length] = draw_order(length, rng)
        is_text = batch["attention_mask"].astype(bool) & ~np.isin(input_ids, self.special)
        predicted = in_span & is_text
        ranks[is_text & ~predicted] = -1
        batch["perm_mask"] = predicted[:, None] & (ranks[:, :, None] <= ranks[:, None])
        batch["target_mapping"] = map_targets(predicted, self.targets_multiple)
        batch["labels"] = np.where(predicted, input_ids, IGNORED)
        batch["input_ids"] = np.where(predicted, self.tokenizer.mask_token_id, input_ids)
        batch["token_type_ids"] = np.where(input_ids == self.tokenizer.cls_token_id, CLS_SEGMENT, 0)
        if not trains:
            batch["characters"] = (self.characters[np.where(predicted, input_ids, 0)] * predicted).sum(1)
        return as_tensors(batch, self.padding)


def draw_spans(length: int, probability: float, max_span_length: int, rng: np.random.Generator) -> np.ndarray:
    """Return whether each position is in a span to predict, bool [length].

    The length of a span is uniform from 1 to ``max_span_length``. It lies at random in a context of ``span /
    probability`` positions; the contexts follow each other from the first position on (Yang et al., 2019, section 2.5).
    """
    contexts = (np.arange(1, max_span_length + 1) / probability).astype(np.int64)
    sizes, places = rng.random((2, -(-length // int(contexts[0]))))
    spans = 1 + (sizes * max_span_length).astype(np.int64)
    context = contexts[spans - 1]
    begins = np.cumsum(context) - context + (places * (context - spans + 1)).astype(np.int64)
    # The last contexts may lie beyond the end.
    edges = np.bincount(np.minimum(begins, length), minlength=length + 1)
    edges -= np.bincount(np.minimum(begins + spans, length), minlength=length + 1)
    return np.cumsum(edges)[:length] > 0


def draw_order(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rank of each position in the order of prediction, int64 [length].

    The first half comes before the second one, and both have the same order, as in XLNet, where the first half could be
    the memory of the second one.
    """
    half = rng.permutation(-(-length // 2))
    return np.concatenate([half, len(half) + half])[:length]


def map_targets(predicted: np.ndarray, multiple: int) -> np.ndarray:
    """Return the positions to compute logits for as one-hot rows, float32 [batch, targets, length].

    The predicted positions of an example are first, ascending; others fill it up. The number of targets is a multiple
    of ``multiple``, at least one and at most the length.

    Args:
        predicted: bool [batch, length].
        multiple: of the number of targets.
    """
    length = predicted.shape[1]
    count = min(max(-(-int(predicted.sum(1).max()) // multiple), 1) * multiple, length)
    positions = np.argsort(~predicted, axis=1, kind="stable")[:, :count]
    mapping = np.zeros((len(predicted), count, length), dtype=np.float32)
    np.put_along_axis(mapping, positions[:, :, None], 1, axis=2)
    return mapping
