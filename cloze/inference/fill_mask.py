"""Predict the words behind [MASK] in the user's texts."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.data_arguments import DataTrainingArguments
from cloze.data.collators import collate
from cloze.data.context import DataContext
from cloze.errors import UserError
from cloze.inference.predictions import read_test_texts, save_predictions
from cloze.objectives.metrics import MASKED_TOKENS, check_finite
from cloze.tokenization.checks import count_unknown, warn_of_unknown
from cloze.tokenization.encoding import encode
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.templates import template_of
from cloze.training.context import padding_for
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Marks a hidden word in the user's texts, whatever the tokenizer's mask token.
MASK = "[MASK]"
# Most texts to log; the file has all.
MAX_LOGGED = 20


class Filling(NamedTuple):
    """Hold a predicted token as readable text, and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class Window:
    """Hold a part of a text, and the masks to fill in it.

    Attributes:
        text: index of the text.
        ids: token ids without special tokens, int64 [length].
        positions: positions of the masks in ``ids``, ascending, [masks].
    """

    text: int
    ids: np.ndarray
    positions: np.ndarray


@torch.no_grad()
def fill_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    top_k: int,
    max_seq_length: int,
    batch_size: int = 8,
) -> list[list[list[Filling]]]:
    """Return the most probable tokens for each mask of each text, best first: texts x masks x top_k.

    In a text longer than ``max_seq_length``, each mask is filled from a window of that length around it.

    Args:
        model: a model whose forward takes ``masked_positions`` (models.sparse_prediction).
        tokenizer: the model's tokenizer.
        texts: texts with [MASK] or the tokenizer's mask token for each hidden word.
        top_k: number of tokens for each mask.
        max_seq_length: length of the model's input in tokens, including special tokens.
        batch_size: number of windows in a batch.
    """
    model.eval()
    template, padding = template_of(tokenizer), padding_for(model, max_seq_length)
    documents = [[with_own_mask(text, tokenizer)] for text in texts]
    windows = [
        window
        for number, [(ids, _)] in enumerate(encode(documents, tokenizer, with_words=False))
        for window in windows_of(number, ids, tokenizer.mask_token_id, template.max_tokens(max_seq_length))
    ]
    # Longest first: a batch too large for memory fails at once.
    order = sorted(range(len(windows)), key=lambda number: -len(windows[number].ids))
    filled: dict[int, list[list[Filling]]] = {}
    for begin in range(0, len(order), batch_size):
        numbers = order[begin : begin + batch_size]
        examples = [template.example([windows[number].ids], number) for number in numbers]
        batch = collate(examples, tokenizer.pad_token_id, padding)
        starts = np.arange(len(numbers)) * batch["input_ids"].shape[1] + len(template.prefix)
        positions = [start + windows[number].positions for start, number in zip(starts, numbers, strict=True)]
        batch["masked_positions"] = torch.from_numpy(np.concatenate(positions))
        outputs = model(**{name: values.to(model.device) for name, values in batch.items()})
        best = MASKED_TOKENS.logits_of(outputs)[0].float().softmax(-1).topk(top_k)
        check_finite(best.values.cpu().numpy())
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        masks = ([Filling(readable(tokenizer, i), share) for i, share in zip(*row, strict=True)] for row in rows)
        filled |= {number: [next(masks) for _ in windows[number].positions] for number in numbers}
    fillings: list[list[list[Filling]]] = [[] for _ in texts]
    for number, window in enumerate(windows):
        fillings[window.text] += filled[number]
    return fillings


def with_own_mask(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Replace [MASK] and the space before it by the tokenizer's mask token.

    Byte-level and SentencePiece tokens contain the space before a word, so the space is part of the hidden token.
    """
    own = tokenizer.mask_token
    return re.sub(rf"\s*({re.escape(MASK)}|{re.escape(own)})", lambda _: own, text)


def windows_of(text: int, ids: np.ndarray, mask_id: int, max_tokens: int) -> list[Window]:
    """Return the whole text if it has at most ``max_tokens``, else a window of that length around each mask."""
    positions = np.flatnonzero(ids == mask_id)
    if len(ids) <= max_tokens:
        return [Window(text, ids, positions)]
    starts = np.clip(positions - max_tokens // 2, 0, len(ids) - max_tokens)
    return [
        Window(text, ids[start : start + max_tokens], np.array([position - start]))
        for start, position in zip(starts, positions, strict=True)
    ]


def readable(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token as text, without the mark of a word's beginning; unchanged if it is part of a character."""
    text = str(tokenizer.decode([token_id])).strip()
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token_id))


def read_masked_texts(context: DataContext) -> list[tuple[str | None, dict[str, Any]]]:
    """Return each row of ``test_file`` with its text, None if the text is empty.

    Raises:
        UserError: for a file without text, a text without a mask, or a ``top_k`` above the vocabulary size.
    """
    data_args, tokenizer = context.data_args, context.tokenizer
    assert isinstance(data_args, DataTrainingArguments)
    test_file = data_args.test_file
    assert test_file is not None, "--do_predict needs it"
    if data_args.top_k > context.config.vocab_size:
        raise UserError(
            f"--top_k {data_args.top_k} is more than the {context.config.vocab_size:,} tokens of the vocabulary: "
            "lower it"
        )
    rows = read_test_texts(test_file, data_args, f"texts with {MASK} for each hidden word")
    for where, text, _ in rows:
        if text and tokenizer.mask_token not in with_own_mask(text, tokenizer):
            raise UserError(f"{where}: no {MASK} in the text: write {MASK} for the hidden word")
    return [(text or None, row) for _, text, row in rows]


def predict_words(
    trainer: PretrainingTrainer, rows: list[tuple[str | None, dict[str, Any]]], top_k: int, max_seq_length: int
) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows, and log the first MAX_LOGGED texts."""
    texts, tokenizer = [text for text, _ in rows if text], trainer.processing_class
    (encoded,) = encode([[with_own_mask(text, tokenizer) for text in texts]], tokenizer, with_words=False)
    ids = np.concatenate([ids for ids, _ in encoded])
    warn_of_unknown(count_unknown(ids, unknown_id(tokenizer)) / max(1, len(ids)), "--test_file", tokenizer)
    # Every process predicts, and the first one writes: with FSDP, no process holds the whole model.
    batch_size = trainer.args.per_device_eval_batch_size
    fillings = fill_masks(trainer.model, tokenizer, texts, top_k, max_seq_length, batch_size)
    if not trainer.is_world_process_zero():
        return
    for text, masks in list(zip(texts, fillings, strict=True))[:MAX_LOGGED]:
        guesses = (", ".join(f"{token} {probability:.0%}" for token, probability in mask) for mask in masks)
        logger.info("\n  %s%s", " ".join(text.split()), "".join(f"\n    {line}" for line in guesses))
    logged = f" ({MAX_LOGGED} shown)" if len(texts) > MAX_LOGGED else ""
    predictions = [{"fillings": [[filling._asdict() for filling in mask] for mask in masks]} for masks in fillings]
    save_predictions(trainer, f"\nFilled in {len(texts):,} lines{logged}", rows, predictions, {})
