"""Pad examples to batches, and mask tokens to predict (Devlin et al., 2018, section 3.1), reproducibly by example."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from cloze.data.held_out import draws_of
from cloze.data.schedules import Step, cut_rows
from cloze.tokenization.characters import characters_of

IGNORED = -100
# What batches of evaluations have for the metrics, and the model does not get.
MEASURES = ("characters", "bytes", "documents", "document_ends")
# Shares of the tokens to predict that are masked, and that are replaced at random; the others stay unchanged.
BERT_SHARES = (0.8, 0.1)


@dataclass(frozen=True)
class Padding:
    """Set the padded length of batches: their longest example, rounded up to a multiple to limit the shapes.

    Attributes:
        multiple: lengths are rounded up to a multiple of this.
        longest: the greatest padded length, since the model has no more positions; None sets no limit.
        fixed: pad every batch to ``longest``.
        omit_mask: leave out the attention mask of batches without padding.
    """

    multiple: int = 1
    longest: int | None = None
    fixed: bool = False
    omit_mask: bool = False

    def padded_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return the padded lengths of batches whose longest examples have these lengths, [batches]."""
        if self.fixed:
            return np.full_like(lengths, self.longest)
        padded = -(-lengths // self.multiple) * self.multiple
        return padded if self.longest is None else np.minimum(padded, self.longest)


@dataclass
class MaskingCollator(DataCollatorForLanguageModeling):
    """Pad examples to a batch and mask it.

    ``[{"input_ids": [2, 7, 8, 3], "example": 0, "epoch": 1}, ...]`` becomes ``{"input_ids", "attention_mask",
    "labels"}``, int64 [batch, length]; labels are -100 except at tokens to predict: ``input_ids [[2, 4, 8, 3]]``,
    ``labels [[-100, 7, -100, -100]]``. ``masked_positions`` holds the flat positions of these tokens, ``[1, 0, 0,
    ...]``, filled up with positions without a label to limit the shapes. Pairs keep their ``token_type_ids`` and
    ``next_sentence_label``. With ``padding.omit_mask``, batches without padding have no ``attention_mask``.

    Differences from the parent:

    - Masks depend on (seed, epoch, example) only, not on the batch or the process.
    - Of training examples, the share of the tokens to predict, and the length of the rows, depend on their ``"step"``
      (data.schedules.Step). Without one, as in dry runs, both have the largest value.
    - Examples without an epoch belong to evaluations. Their masks never change, so runs with different seeds and
      training settings are comparable: single tokens at ``eval_mlm_probability``, with BERT's shares of 80 % masked,
      10 % random and 10 % unchanged.
      With ``eval_whole_words``, their words are chosen and treated as a whole, by the number of the word
      (data.held_out), also if another tokenizer cuts the text, or another block begins inside the word.
    - Batches of evaluations have ``"characters"``, int64 [batch]: the number of characters in the tokens to predict,
      without white space.
    - Random replacements are never special tokens (huggingface/transformers#15342).
    - Whole words keep the shares of masked, random and unchanged tokens; the parent masks all of them. They take
      O(length) memory.

    Attributes:
        mlm_probability: share of the tokens to predict in training.
        final_mlm_probability: the share at the last step, towards which it goes linearly from ``mlm_probability`` at
            the first one; None if it stays the same.
        lengths: into which rows are cut in training, each for an equal part of the steps. Each divides the next, and
            the last is the length of the examples. Empty if rows are not cut.
        seed: of the masks in training.
        eval_mlm_probability: share of the tokens that evaluations predict.
        whole_words: mask whole words in training.
        eval_whole_words: mask whole words in evaluations.
        padding: of the batches.
        positions_multiple: the number of ``masked_positions`` is a multiple of this.
        ordinary_ids: ids that may replace a token at random.
        special: whether each id is special, bool [vocabulary].
        characters: of each token, without white space, int64 [vocabulary].
    """

    mlm_probability: float = 0.15
    final_mlm_probability: float | None = None
    lengths: tuple[int, ...] = ()
    seed: int = 0
    eval_mlm_probability: float = 0.15
    whole_words: bool = False
    eval_whole_words: bool = False
    padding: Padding = Padding()
    positions_multiple: int = 32
    ordinary_ids: np.ndarray = field(init=False, repr=False)
    special: np.ndarray = field(init=False, repr=False)
    characters: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        ids = np.array(sorted(self.tokenizer.get_vocab().values()))
        self.special = np.isin(np.arange(ids[-1] + 1), special_ids(self.tokenizer))
        self.ordinary_ids = ids[~self.special[ids]]
        self.characters = characters_of(self.tokenizer)

    def torch_call(self, examples: list[Any]) -> dict[str, torch.Tensor]:
        """Return the masked batch; examples with an epoch are masked for training, others for evaluation."""
        trains, step = "epoch" in examples[0], examples[0].get("step")
        cut = self._length_at(step)
        padding = self.padding if cut is None else replace(self.padding, multiple=cut)
        batch = pad(examples, self.tokenizer.pad_token_id, padding)
        input_ids, real = batch["input_ids"], batch["attention_mask"].astype(bool)
        whole_words = self.whole_words and trains
        rates = (self._probability_at(step), self.mask_replace_prob, self.random_replace_prob)
        word_starts = np.ones(real.shape, dtype=bool)
        draws = np.zeros((3, *real.shape))
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            rng = example_rng(self.seed, example.get("epoch"), example["example"])
            draws[:, row, :length] = rng.random((3, length))
            if whole_words:
                word_starts[row, :length] = example["word_starts"]
            if self.eval_whole_words and not trains:
                draws[:2, row, :length] = draws_of(example["words"])
        batch["input_ids"], batch["labels"] = mask_tokens(
            input_ids,
            real & ~self.special[input_ids],
            draws,
            *(rates if trains else (self.eval_mlm_probability, *BERT_SHARES)),
            self.tokenizer.mask_token_id,
            self.ordinary_ids,
            word_starts if whole_words else None,
        )
        if not trains:
            predicted = batch["labels"] != IGNORED
            batch["characters"] = (self.characters[np.where(predicted, batch["labels"], 0)] * predicted).sum(1)
        if cut is not None:
            batch = cut_rows(batch, cut)
        batch["masked_positions"] = masked_positions(batch["labels"], self.positions_multiple)
        return as_tensors(batch, self.padding)

    def _probability_at(self, step: Step | None) -> float:
        """Return the share of the tokens to predict in a step of training."""
        if self.final_mlm_probability is None:
            return self.mlm_probability
        ends = self.mlm_probability, self.final_mlm_probability
        return max(ends) if step is None else step.between(*ends)

    def _length_at(self, step: Step | None) -> int | None:
        """Return the length into which rows are cut in a step of training, None if they stay whole."""
        if step is None or not self.lengths:
            return None
        length = step.choose(self.lengths)
        return length if length < self.lengths[-1] else None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of tokens that are never masked, and never replace others."""
    # Some tokenizers, such as ModernBERT's, have special tokens that no attribute such as sep_token names.
    marked = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    return [*tokenizer.all_special_ids, *marked]


def collate(examples: list[dict[str, Any]], pad_id: int, padding: Padding) -> dict[str, torch.Tensor]:
    """Pad examples to a batch without masking it; the keys are those of ``pad``, see ``as_tensors``."""
    return as_tensors(pad(examples, pad_id, padding), padding)


def as_tensors(batch: dict[str, np.ndarray], padding: Padding) -> dict[str, torch.Tensor]:
    """Return a batch as tensors, without its attention mask if that is full and ``padding`` omits it."""
    # Decided here, because on a GPU the model would have to wait for the values.
    if padding.omit_mask and batch["attention_mask"].all():
        batch = {name: values for name, values in batch.items() if name != "attention_mask"}
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def pad(examples: list[dict[str, Any]], pad_id: int, padding: Padding) -> dict[str, np.ndarray]:
    """Pad examples to ``{"input_ids", "attention_mask"}``, int64 [batch, length].

    If the examples have them, ``"token_type_ids"`` [batch, length] and ``"next_sentence_label"`` or ``"label"`` [batch]
    are added, and ``"documents"`` and ``"document_ends"`` [batch, parts], filled up with -100.
    """
    lengths = np.array([len(example["input_ids"]) for example in examples])
    width = int(padding.padded_lengths(lengths.max()))
    batch = {
        "input_ids": np.full((len(examples), width), pad_id, dtype=np.int64),
        "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
    }
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = np.zeros_like(batch["attention_mask"])
    for name in batch.keys() & {"input_ids", "token_type_ids"}:
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            batch[name][row, :length] = example[name]
    for name in examples[0].keys() & {"next_sentence_label", "label"}:
        batch[name] = np.array([example[name] for example in examples])
    for name in examples[0].keys() & {"documents", "document_ends"}:
        parts = max(1, *(len(example[name]) for example in examples))
        batch[name] = np.full((len(examples), parts), IGNORED)
        for row, example in enumerate(examples):
            batch[name][row, : len(example[name])] = example[name]
    return batch


def example_rng(seed: int, epoch: int | None, example: int) -> np.random.Generator:
    """Return the random generator of an example in an epoch, or in evaluations if the epoch is None.

    Philox is a counter-based generator (Salmon et al., 2011): it reaches any stream in constant time.
    """
    key, stream = ((0, 0), 0) if epoch is None else ((seed, 1), epoch)
    return np.random.Generator(np.random.Philox(key=key, counter=(0, example, stream, 0)))


def mask_tokens(
    input_ids: np.ndarray,
    maskable: np.ndarray,
    draws: np.ndarray,
    mlm_probability: float,
    mask_replace_prob: float,
    random_replace_prob: float,
    mask_id: int,
    ordinary_ids: np.ndarray,
    word_starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose tokens to predict, and replace most of them.

    Args:
        input_ids: int64 [batch, length].
        maskable: bool [batch, length], false on padding and special tokens.
        draws: uniform in [0, 1), [3, batch, length]: for the choice of tokens, their treatment, and their replacement.
        mlm_probability: probability that a token, or a word, is chosen.
        mask_replace_prob: share of chosen tokens replaced by ``mask_id``.
        random_replace_prob: share of chosen tokens replaced by one of ``ordinary_ids``; the others stay unchanged.
        mask_id: id of the mask token.
        ordinary_ids: ids that may replace a token at random, [ordinary].
        word_starts: whether a word begins at each token, bool [batch, length], to choose whole words; else None.

    Returns:
        The new ids, and the labels with -100 where nothing is predicted, both int64 [batch, length].
    """
    choice, action, replacement = draws
    if word_starts is not None:
        # Every token of a word uses the draw of the word's first token.
        first = np.maximum.accumulate(np.where(word_starts, np.arange(input_ids.shape[1]), 0), axis=1)
        choice = np.take_along_axis(choice, first, axis=1)
    chosen = maskable & (choice < mlm_probability)
    labels = np.where(chosen, input_ids, IGNORED)
    masked = np.where(chosen & (action < mask_replace_prob), mask_id, input_ids)
    randomised = chosen & (action >= mask_replace_prob) & (action < mask_replace_prob + random_replace_prob)
    random_ids = ordinary_ids[(replacement * len(ordinary_ids)).astype(np.int64)]
    return np.where(randomised, random_ids, masked), labels


def masked_positions(labels: np.ndarray, multiple: int) -> np.ndarray:
    """Return the flat positions of the labels that are not -100, padded with other positions to a multiple.

    The result has at least one multiple, and at most all positions.
    """
    flat = labels.ravel()
    positions = np.flatnonzero(flat != IGNORED)
    count = min(max(-(-len(positions) // multiple), 1) * multiple, len(flat))
    return np.concatenate([positions, np.full(count - len(positions), (flat == IGNORED).argmax())])
