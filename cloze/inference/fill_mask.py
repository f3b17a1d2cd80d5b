"""What a model puts in place of [MASK] in texts of the user's own."""

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.data_arguments import DataTrainingArguments
from cloze.data.collators import Padding, collate
from cloze.errors import UserError
from cloze.inference.next_sentence import save_predictions, warn_of_unknown_texts
from cloze.objectives.metrics import MASKED_TOKENS, check_finite
from cloze.text.columns import choose_column, text_in
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
from cloze.tokenization.encoding import encode
from cloze.tokenization.templates import Template, template_of
from cloze.training.context import RunContext, padding_for
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# How a hidden word is written, whatever the tokenizer's own mask token is.
MASK = "[MASK]"
# Lines shown on screen; the file has them all.
SHOWN = 20


@dataclass(frozen=True)
class Filling:
    """A token in place of a mask, as it reads, and its probability among all tokens."""

    token: str
    probability: float


@dataclass(frozen=True)
class Window:
    """A piece of a text, and the masks to fill in it.

    Attributes:
        text: number of the text.
        ids: without special tokens around them, int64 [length].
        places: of the masks in these, ascending, [masks].
    """

    text: int
    ids: np.ndarray
    places: np.ndarray


@torch.no_grad()
def fill_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    top_k: int,
    max_seq_length: int,
    batch_size: int = 8,
) -> list[list[list[Filling]]]:
    """The likeliest tokens for each mask of each text, best first: texts x masks x top_k.

    Where a text is longer than ``max_seq_length``, each mask is filled from a window of that length around it.

    Args:
        model: whose forward takes ``masked_positions``; see sparse_prediction.predict_masked_positions.
        texts: with [MASK], or the tokenizer's own mask token, for each hidden word.
        max_seq_length: tokens that the model sees at once, special ones included.
        batch_size: texts, or windows, in a forward.
    """
    model.eval()
    template = template_of(tokenizer)
    padding = padding_for(model, max_seq_length)
    documents = [[with_own_mask(text, tokenizer)] for text in texts]
    windows = [
        window
        for number, [(ids, _)] in enumerate(encode(documents, tokenizer, with_words=False))
        for window in windows_of(number, ids, tokenizer.mask_token_id, template.room(max_seq_length))
    ]
    # The longest first: what does not fit into memory is met at once.
    order = sorted(range(len(windows)), key=lambda number: -len(windows[number].ids))
    filled: dict[int, list[list[Filling]]] = {}
    for begin in range(0, len(order), batch_size):
        numbers = order[begin : begin + batch_size]
        batch = [windows[number] for number in numbers]
        filled |= zip(numbers, fill_batch(model, tokenizer, batch, top_k, template, padding), strict=True)
    fillings: list[list[list[Filling]]] = [[] for _ in texts]
    for number, window in enumerate(windows):
        fillings[window.text] += filled[number]
    return fillings


def with_own_mask(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with the tokenizer's mask token, without the space before: that belongs to the hidden token, as in the
    byte-level and SentencePiece tokens that the model was trained on."""
    own = tokenizer.mask_token
    return re.sub(rf"\s*({re.escape(MASK)}|{re.escape(own)})", lambda _: own, text)


def windows_of(text: int, ids: np.ndarray, mask_id: int, room: int) -> list[Window]:
    """The whole text if it fits into ``room`` tokens, else for each mask so many around it."""
    places = np.flatnonzero(ids == mask_id)
    if len(ids) <= room:
        return [Window(text, ids, places)]
    starts = np.clip(places - room // 2, 0, len(ids) - room)
    return [
        Window(text, ids[start : start + room], np.array([place - start]))
        for start, place in zip(starts, places, strict=True)
    ]


def fill_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[Window],
    top_k: int,
    template: Template,
    padding: Padding,
) -> list[list[list[Filling]]]:
    """The likeliest tokens for each mask of each window: windows x masks x top_k."""
    examples = [template.example([window.ids], number) for number, window in enumerate(windows)]
    batch = collate(examples, tokenizer.pad_token_id, padding)
    width = batch["input_ids"].shape[1]
    positions = [row * width + len(template.prefix) + window.places for row, window in enumerate(windows)]
    batch["masked_positions"] = torch.from_numpy(np.concatenate(positions))
    outputs = model(**{name: values.to(model.device) for name, values in batch.items()})
    best = MASKED_TOKENS.logits_of(outputs)[0].float().softmax(-1).topk(top_k)
    check_finite(best.values.cpu().numpy())
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    masks = ([Filling(readable(tokenizer, i), share) for i, share in zip(*row, strict=True)] for row in rows)
    return [[next(masks) for _ in window.places] for window in windows]


def readable(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token as text, without the mark of a word's beginning; as it is if it is no text, as part of a character."""
    text = tokenizer.decode([token_id]).strip()
    return text if text and "\ufffd" not in text else tokenizer.convert_ids_to_tokens(token_id)


def read_lines_to_fill(context: RunContext) -> list[tuple[str | None, dict[str, Any]]]:
    """Return each row of ``test_file`` with its text, None where that is empty.

    UserError for a text without a mask, and for a ``top_k`` out of reach.
    """
    data_args: DataTrainingArguments = context.data_args
    test_file, tokenizer = data_args.test_file, context.tokenizer
    if data_args.top_k > context.config.vocab_size:
        raise UserError(
            f"--top_k {data_args.top_k} is more than the {context.config.vocab_size:,} tokens of the vocabulary: "
            "lower it"
        )
    rows = []
    for path in find_files([test_file], "--test_file"):
        column = "text" if file_format(path) == ".txt" else None
        for where, row in read_rows(path, data_args.reader_settings):
            column = column or choose_column(row, data_args.text_column, str(path))
            text = text_in(row, column, where).strip()
            if text and tokenizer.mask_token not in with_own_mask(text, tokenizer):
                raise UserError(f"{where}: no {MASK} in it: write {MASK} for the hidden word")
            rows.append((text or None, row))
    if not any(text for text, _ in rows):
        raise UserError(f"--test_file {test_file} holds no line: give texts with {MASK} for a hidden word")
    return rows


def predict(
    trainer: PretrainingTrainer, rows: list[tuple[str | None, dict[str, Any]]], top_k: int, max_seq_length: int
) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows, and show the first of them."""
    texts = [text for text, _ in rows if text]
    warn_of_unknown_texts(trainer.processing_class, [with_own_mask(text, trainer.processing_class) for text in texts])
    # By every process, though one writes: with FSDP, none has the whole model.
    batch_size = trainer.args.per_device_eval_batch_size
    fillings = fill_masks(trainer.model, trainer.processing_class, texts, top_k, max_seq_length, batch_size)
    if not trainer.is_world_process_zero():
        return
    for text, masks in list(zip(texts, fillings, strict=True))[:SHOWN]:
        guesses = (", ".join(f"{filling.token} {filling.probability:.0%}" for filling in mask) for mask in masks)
        logger.info("\n  %s%s", " ".join(text.split()), "".join(f"\n    {line}" for line in guesses))
    more = f", {len(texts) - SHOWN:,} of them more than shown" if len(texts) > SHOWN else ""
    predictions = [{"fillings": [[asdict(filling) for filling in mask] for mask in masks]} for masks in fillings]
    save_predictions(trainer, f"\nFilled in {len(texts):,} lines{more}", rows, predictions, {})
