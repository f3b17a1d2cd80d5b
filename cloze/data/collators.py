"""Mask tokens to predict (Devlin et al., 2018, section 3.1), reproducibly example by example."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

IGNORED = -100
# Of the tokens to predict, those masked and those replaced at random (Devlin et al., 2018); the rest is unchanged.
BERT_SHARES = (0.8, 0.1)


@dataclass(frozen=True)
class Padding:
    """Decide how long batches are: as their longest example, rounded up to a multiple, for few shapes.

    Attributes:
        multiple: what lengths are rounded up to.
        longest: what no batch exceeds, for the model has no more positions.
        fixed: all batches are of the ``longest`` length.
    """

    multiple: int = 1
    longest: int | None = None
    fixed: bool = False

    def padded_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return how long batches are by the lengths of their longest examples."""
        if self.fixed:
            return np.full_like(lengths, self.longest)
        padded = -(-lengths // self.multiple) * self.multiple
        return padded if self.longest is None else np.minimum(padded, self.longest)


@dataclass
class MaskingCollator(DataCollatorForLanguageModeling):
    """Pad examples to a batch and mask it.

    ``[{"input_ids": [2, 7, 8, 3], "example": 0, "epoch": 1}, ...]`` becomes ``{"input_ids", "attention_mask",
    "labels"}``, int64 [batch, length], where labels are -100 but for the tokens to predict, as in
    ``input_ids [[2, 4, 8, 3]]``, ``labels [[-100, 7, -100, -100]]``. ``masked_positions`` are the flat positions of
    those tokens, as ``[1, 0, 0, ...]``: their number is rounded up, for few shapes, with some that have no label. Pairs
    keep their ``token_type_ids`` and ``next_sentence_label``.

    What differs from the parent: masks depend on (seed, epoch, example) alone, wherever the example is collated;
    examples without an epoch are those of evaluations, and have the same masks for ever, whatever the seed and the
    settings of training, so that runs can be compared: single tokens at ``eval_mlm_probability``, of which 80 % are
    masked, 10 % random and 10 % unchanged, as in BERT; random replacements are never special tokens
    (huggingface/transformers#15342); whole words keep the shares of masked, random and unchanged tokens, which the
    parent sets to 100 % masked, and take O(length) memory.
    """

    seed: int = 0
    eval_mlm_probability: float = 0.15
    whole_words: bool = False
    padding: Padding = Padding()
    positions_multiple: int = 32
    ordinary_ids: np.ndarray = field(init=False, repr=False)
    special: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        ids = np.array(sorted(self.tokenizer.get_vocab().values()))
        self.special = np.isin(np.arange(ids[-1] + 1), special_ids(self.tokenizer))
        self.ordinary_ids = ids[~self.special[ids]]

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(examples, self.tokenizer.pad_token_id, self.padding)
        input_ids, real = batch["input_ids"], batch["attention_mask"].astype(bool)
        trains = "epoch" in examples[0]
        whole_words = self.whole_words and trains
        rates = (self.mlm_probability, self.mask_replace_prob, self.random_replace_prob)
        word_starts = np.ones(real.shape, dtype=bool)
        draws = np.zeros((3, *real.shape))
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            rng = example_rng(self.seed, example.get("epoch"), example["example"])
            draws[:, row, :length] = rng.random((3, length))
            if whole_words:
                word_starts[row, :length] = example["word_starts"]
        batch["input_ids"], batch["labels"] = mask_tokens(
            input_ids,
            real & ~self.special[input_ids],
            draws,
            *(rates if trains else (self.eval_mlm_probability, *BERT_SHARES)),
            self.tokenizer.mask_token_id,
            self.ordinary_ids,
            word_starts if whole_words else None,
        )
        batch["masked_positions"] = masked_positions(batch["labels"], self.positions_multiple)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of tokens that are never masked, and never stand for others."""
    # Some tokenizers, as ModernBERT's, mark tokens special that no attribute such as sep_token names.
    marked = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    return [*tokenizer.all_special_ids, *marked]


def collate(examples: list[dict[str, Any]], pad_id: int, padding: Padding) -> dict[str, torch.Tensor]:
    """Pad examples to a batch without masking it; keys as those of ``pad``."""
    return {name: torch.from_numpy(values) for name, values in pad(examples, pad_id, padding).items()}


def pad(examples: list[dict[str, Any]], pad_id: int, padding: Padding) -> dict[str, np.ndarray]:
    """Pad examples to ``{"input_ids", "attention_mask"}``, int64 [batch, length], and if they have them
    ``"token_type_ids"`` [batch, length], ``"next_sentence_label"`` and ``"label"`` [batch]."""
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
    return batch


def example_rng(seed: int, epoch: int | None, example: int) -> np.random.Generator:
    """Return the generator of one example in one epoch; without an epoch, the one of its evaluation.

    Philox is a counter-based generator (Salmon et al., 2011): any stream of it is reached at once.
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
        draws: uniform in [0, 1), [3, batch, length]: which tokens are chosen, what is done with them, random tokens.
        mlm_probability: chance of a token, or of a word, to be chosen.
        mask_replace_prob: of those, the share replaced by ``mask_id``.
        random_replace_prob: of those, the share replaced by one of ``ordinary_ids``; the rest is left as it is.
        word_starts: bool [batch, length], if whole words are to be chosen.

    Returns:
        The new ids and the labels, -100 where nothing is to be predicted, both int64 [batch, length].
    """
    choice, action, replacement = draws
    if word_starts is not None:
        # Every token of a word shares the draw of the word's first.
        first = np.maximum.accumulate(np.where(word_starts, np.arange(input_ids.shape[1]), 0), axis=1)
        choice = np.take_along_axis(choice, first, axis=1)
    chosen = maskable & (choice < mlm_probability)
    labels = np.where(chosen, input_ids, IGNORED)
    masked = np.where(chosen & (action < mask_replace_prob), mask_id, input_ids)
    randomised = chosen & (action >= mask_replace_prob) & (action < mask_replace_prob + random_replace_prob)
    random_ids = ordinary_ids[(replacement * len(ordinary_ids)).astype(np.int64)]
    return np.where(randomised, random_ids, masked), labels


def masked_positions(labels: np.ndarray, multiple: int) -> np.ndarray:
    """Return the flat positions of the labels that are not -100, filled up with others to a multiple.

    There is at least one multiple, and at most all positions.
    """
    flat = labels.ravel()
    positions = np.flatnonzero(flat != IGNORED)
    count = min(max(-(-len(positions) // multiple), 1) * multiple, len(flat))
    return np.concatenate([positions, np.full(count - len(positions), (flat == IGNORED).argmax())])
