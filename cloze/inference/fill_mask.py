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
from cloze.inference.predictions import drop_cut_word, save_predictions, surest, within_budget
from cloze.objectives.metrics import MASKED_TOKENS, check_finite
from cloze.text.columns import choose_column, text_in
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
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
# Tokens of context shown on each side of a word that is filled in.
CONTEXT = 12
# Mistakes shown if no guess is right.
MAX_GUESSES = 5


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
    rows = []
    for path in find_files([test_file], "--test_file"):
        column = "text" if file_format(path) == ".txt" else None
        for where, row in read_rows(path, data_args.reader_settings):
            column = column or choose_column(row, data_args.text_column, str(path))
            text = text_in(row, column, where).strip()
            if text and tokenizer.mask_token not in with_own_mask(text, tokenizer):
                raise UserError(f"{where}: no {MASK} in the text: write {MASK} for the hidden word")
            rows.append((text or None, row))
    if not any(text for text, _ in rows):
        raise UserError(f"--test_file {test_file} has no text: give texts with {MASK} for each hidden word")
    return rows


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


@torch.no_grad()
def guess_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict], num_right: int, num_wrong: int
) -> tuple[list[str], list[str]]:
    """Return the words that the model guesses right and wrong with the highest probability, each in its context.

    The model sees each example once, with some of its rarer words hidden. These are so far apart that the context of
    one contains no other. A word is shown once. If no guess is right, ``MAX_GUESSES`` mistakes are returned instead.
    """
    model.eval()
    samples = within_budget(examples)
    guesses = []
    for example, positions in zip(samples, words_to_hide(tokenizer, samples), strict=True):
        if not positions:
            continue
        hidden = example["input_ids"].copy()
        hidden[positions] = tokenizer.mask_token_id
        inputs = {"input_ids": hidden} | {name: example[name] for name in ("token_type_ids",) if name in example}
        batch = {name: torch.tensor(values, device=model.device)[None] for name, values in inputs.items()}
        best = MASKED_TOKENS.logits_of(model(**batch))[0, positions].float().softmax(-1).topk(3)
        rows = zip(positions, best.indices.tolist(), best.values.tolist(), strict=True)
        guesses += [WordGuess.of(tokenizer, example["input_ids"], hidden, *row) for row in rows]
    right = surest([guess for guess in guesses if guess.is_right], num_right)
    # A guess that is not a word says little: show it only if there is no other.
    wrong = [guess for guess in guesses if not guess.is_right]
    wrong = [guess for guess in wrong if guess.is_word] or wrong
    return [guess.text for guess in right], [guess.text for guess in surest(wrong, num_wrong if right else MAX_GUESSES)]


class WordGuess(NamedTuple):
    """Hold a model's best guess for a hidden word.

    Attributes:
        probability: of the best guess.
        truth: the hidden word.
        is_right: whether the best guess is the hidden token.
        is_word: whether the best guess is a word, no punctuation or part of a word.
        text: the context, the guesses and the word, to show.
    """

    probability: float
    truth: str
    is_right: bool
    is_word: bool
    text: str

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        ids: np.ndarray,
        hidden: np.ndarray,
        position: int,
        tokens: list[int],
        probabilities: list[float],
    ) -> "WordGuess":
        """Take an example's tokens [length], the same with words hidden, and the best tokens at a position."""
        truth, *words = (str(tokenizer.decode([token])).strip() for token in (ids[position], *tokens))
        # Only of the word's own document, between two separators.
        separators = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}
        borders = np.flatnonzero(np.isin(hidden, list(separators)))
        first = int(borders[borders < position].max(initial=-1)) + 1
        last = int(borders[borders > position].min(initial=len(hidden)))
        start, end = max(position - CONTEXT, first), min(position + CONTEXT + 1, last)
        text = str(tokenizer.decode(hidden[start:end].tolist())).replace(str(tokenizer.mask_token), f" {MASK}")
        # The context of byte-level tokens may begin or end within a character.
        text = drop_cut_word(" ".join(text.split()).strip("\ufffd"))
        text = f"{'... ' if start > first else ''}{text}{' ...' if end < last else ''}"
        shares = ", ".join(f"{word} {share:.0%}" for word, share in zip(words, probabilities, strict=True))
        text = f"{text}\n    {shares}   (the text has: {truth})"
        return cls(probabilities[0], truth, tokens[0] == ids[position], words[0].isalpha(), text)


def words_to_hide(tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict]) -> list[list[int]]:
    """Return positions of words in each example, more than ``CONTEXT`` tokens apart, ascending.

    They are among the rarer half of the examples' words, the rarest first: frequent words show little of the subject.
    """
    counts = np.bincount(np.concatenate([example["input_ids"] for example in examples]))
    words = [
        [position for position in range(1, len(ids) - 1) if is_word(tokenizer, ids, position)]
        for ids in (example["input_ids"] for example in examples)
    ]
    frequencies = [counts[example["input_ids"][positions]] for example, positions in zip(examples, words, strict=True)]
    median = np.median(np.concatenate(frequencies)) if any(words) else 0
    hidden: list[list[int]] = []
    for positions, counted in zip(words, frequencies, strict=True):
        chosen: list[int] = []
        for count, position in sorted(zip(counted, positions, strict=True)):
            if count <= median and all(abs(position - other) > CONTEXT for other in chosen):
                chosen.append(position)
        hidden.append(sorted(chosen))
    return hidden


def is_word(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, position: int) -> bool:
    """Return whether a token is a word, not too short, and not part of a longer one."""
    spans = (position - 1, position + 1), (position, position + 1), (position, position + 2)
    before, word, after = (str(tokenizer.decode(ids[start:stop])).strip() for start, stop in spans)
    # In scripts with an alphabet the shortest words say little.
    long_enough = word.isalpha() and (len(word) > 3 or not word.isascii())
    return (
        long_enough and ids[position] not in tokenizer.all_special_ids and not before.isalpha() and not after.isalpha()
    )
